"""FiLM, cross-attention and none: values by hand, starts, rows and refusals."""

from __future__ import annotations

import pytest
import torch

from mlkit_core.components.cross_attention import CrossAttention
from mlkit_core.components.film import FiLM, modulate
from mlkit_core.components.no_fusion import NoFusion
from mlkit_core.errors import BuildError
from mlkit_core.types import Features, FeatureSpec

IMAGE = FeatureSpec(
    channels={"p3": 6, "p4": 8}, strides={"p3": 8, "p4": 16}, vector_dim=8, token_dim=10
)
VIEW = FeatureSpec(vector_dim=4)
INPUTS = {"image": IMAGE, "view": VIEW}


def image_features(rows=2, **fields):
    generator = torch.Generator().manual_seed(0)
    shapes = {"p3": (rows, 6, 8, 8), "p4": (rows, 8, 4, 4)}
    maps = {level: torch.randn(shape, generator=generator) for level, shape in shapes.items()}
    vector = torch.randn(rows, 8, generator=generator)
    tokens = torch.randn(rows, 5, 10, generator=generator)
    return Features(maps=maps, vector=vector, tokens=tokens, **fields)


def view_features(rows=2, seed=1, **fields):
    vector = torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))
    return Features(vector=vector, **fields)


def nudged(part):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return part


def test_modulate_by_hand():
    values = torch.tensor([[[[2.0]], [[3.0]]]])  # one row, two channels, one pixel
    gamma, beta = torch.tensor([[0.5, -1.0]]), torch.tensor([[1.0, 7.0]])
    assert modulate(values, gamma, beta, 1).flatten().tolist() == [4.0, 7.0]
    assert modulate(values.flatten(1), gamma, beta, -1).tolist() == [[4.0, 7.0]]


@pytest.mark.parametrize("fusion", [FiLM(INPUTS), FiLM(INPUTS, hidden=5), CrossAttention(INPUTS)])
def test_a_fresh_fusion_is_the_identity(fusion):
    image = image_features()
    given = fusion({"image": image, "view": view_features()})
    for level in image.maps:
        assert torch.equal(given.maps[level], image.maps[level])
    assert torch.equal(given.vector, image.vector)
    assert torch.equal(given.tokens, image.tokens)


def test_film_has_the_published_number_of_parameters():
    # The seed's FiLM: a vector of 256 to gamma and beta of 256 channels, 256 * 512 + 512.
    inputs = {
        "image": FeatureSpec(channels={"p4": 256}, strides={"p4": 16}),
        "view": FeatureSpec(vector_dim=256),
    }
    assert sum(p.numel() for p in FiLM(inputs).parameters()) == 131_584


def test_film_projects_768_channels_to_256_like_a_1x1_convolution():
    inputs = {
        "image": FeatureSpec(channels={"p4": 768}, strides={"p4": 16}),
        "view": FeatureSpec(vector_dim=4),
    }
    fusion = FiLM(inputs, dim=256)
    project = fusion.maps["p4"].project
    assert sum(p.numel() for p in project.parameters()) == 196_864
    x = torch.randn(2, 768, 3, 5)
    conv = torch.nn.functional.conv2d(x, project.weight[:, :, None, None], project.bias)
    given = fusion({"image": Features(maps={"p4": x}), "view": view_features()})
    torch.testing.assert_close(given.maps["p4"], conv)
    assert fusion.spec.channels == {"p4": 256}


def test_film_computes_its_formula_for_every_map_vector_and_token():
    fusion, image, view = nudged(FiLM(INPUTS)), image_features(), view_features()
    given = fusion({"image": image, "view": view})
    for part, values, got in (
        (fusion.maps["p4"], image.maps["p4"].movedim(1, -1), given.maps["p4"].movedim(1, -1)),
        (fusion.tokens, image.tokens, given.tokens),
        (fusion.vector, image.vector, given.vector),
    ):
        gamma, beta = part.to_gamma_beta[0](view.vector).chunk(2, -1)
        for row in range(2):
            torch.testing.assert_close(got[row], (1 + gamma[row]) * values[row] + beta[row])


def test_cross_attention_equals_torchs_own_multihead_attention():
    answers = FeatureSpec(token_dim=12)
    inputs = {"image": FeatureSpec(channels={"p4": 8}, strides={"p4": 16}), "text": answers}
    fusion = nudged(CrossAttention(inputs, dim=16, heads=4))
    level = fusion.levels["p4"]
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.eye(16).repeat(3, 1))
        reference.in_proj_bias.zero_()
        reference.out_proj.weight.copy_(torch.eye(16))
        reference.out_proj.bias.zero_()
    image, tokens = torch.randn(2, 8, 3, 5), torch.randn(2, 7, 12)
    given = fusion({"image": Features(maps={"p4": image}), "text": Features(tokens=tokens)})
    positions = image.flatten(2).transpose(1, 2)
    normed = fusion.norm(tokens)
    answer, _ = reference(
        level.query(level.norm(positions)), fusion.key(normed), fusion.value(normed)
    )
    want = positions + level.out(answer)
    torch.testing.assert_close(given.maps["p4"].flatten(2).transpose(1, 2), want)


def test_cross_attention_says_different_things_at_different_positions():
    # One key alone would give every pixel the same answer: a mere bias per channel.
    fusion = nudged(CrossAttention(INPUTS))
    image = image_features()
    change = fusion({"image": image, "view": view_features()}).maps["p3"] - image.maps["p3"]
    assert change.std(dim=(2, 3)).min() > 1e-3


def test_cross_attention_leaves_other_levels_alone():
    fusion, image = nudged(CrossAttention(INPUTS, levels=["p4"])), image_features()
    given = fusion({"image": image, "view": view_features()})
    assert torch.equal(given.maps["p3"], image.maps["p3"])
    assert not torch.allclose(given.maps["p4"], image.maps["p4"])


@pytest.mark.parametrize("make", [FiLM, CrossAttention])
def test_another_condition_gives_other_features(make):
    fusion, image = nudged(make(INPUTS)), image_features()
    a, b = (fusion({"image": image, "view": view_features(seed=s)}).maps["p3"] for s in (1, 2))
    assert (a - b).abs().max() > 1e-2


@pytest.mark.parametrize("make", [FiLM, CrossAttention])
def test_one_row_conditions_every_row(make):
    fusion, image = nudged(make(INPUTS)), image_features()
    view = view_features(rows=1)
    twice = Features(vector=view.vector.repeat(2, 1))
    one, two = (fusion({"image": image, "view": v}).maps["p3"] for v in (view, twice))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)  # sums over another batch size


@pytest.mark.parametrize("make", [FiLM, CrossAttention])
def test_a_clips_vector_conditions_each_of_its_frames(make):
    lead = FeatureSpec(channels={"p3": 6}, strides={"p3": 8}, lead=("clip", "frame"))
    fusion = nudged(make({"image": lead, "view": VIEW}))
    maps, view = torch.randn(6, 6, 4, 4), view_features(rows=2)
    image = Features(maps={"p3": maps}, valid=torch.ones(2, 3, dtype=torch.bool))
    given = fusion({"image": image, "view": view}).maps["p3"]
    second = Features(maps={"p3": maps[3:]}, valid=torch.ones(1, 3, dtype=torch.bool))
    alone = fusion({"image": second, "view": Features(vector=view.vector[1:])}).maps["p3"]
    torch.testing.assert_close(given[3:], alone, atol=1e-4, rtol=1e-4)  # another batch size


@pytest.mark.parametrize("make", [FiLM, CrossAttention])
def test_pool_averages_the_shots_that_are_real(make):
    shots = FeatureSpec(vector_dim=4, lead=("class", "shot"))
    fusion = nudged(make({"image": IMAGE, "support": shots}, pool=True))
    vectors = torch.randn(3, 4)
    valid = torch.tensor([[True, True, False]])
    three = Features(vector=vectors, valid=valid)
    mean = Features(vector=vectors[:2].mean(0, keepdim=True))
    image = image_features()
    a, b = (fusion({"image": image, "support": s}).maps["p3"] for s in (three, mean))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("make", [FiLM, CrossAttention])
def test_shots_without_pool_are_refused(make):
    shots = FeatureSpec(vector_dim=4, lead=("class", "shot"))
    with pytest.raises(BuildError, match=r"'support' has lead \(class, shot\)"):
        make({"image": IMAGE, "support": shots})


@pytest.mark.parametrize("make", [FiLM, CrossAttention, NoFusion])
def test_valid_mask_and_state_of_the_conditioned_role_are_kept(make):
    valid, mask = torch.ones(2, dtype=torch.bool), torch.ones(2, 64, 64)
    image = image_features(valid=valid, mask=mask, state="window 1")
    given = make(INPUTS)({"image": image, "view": view_features()})
    assert (given.valid is valid, given.mask is mask, given.state) == (True, True, "window 1")


@pytest.mark.parametrize("make", [FiLM, CrossAttention])
def test_two_roles_that_fit_are_listed(make):
    inputs = {**INPUTS, "text": FeatureSpec(vector_dim=3)}
    with pytest.raises(BuildError, match=r"several have it \(view, text\)"):
        make(inputs)
    assert make(inputs, by="text").by == "text"


@pytest.mark.parametrize("make", [FiLM, CrossAttention])
def test_no_role_to_condition_by_is_refused(make):
    with pytest.raises(BuildError, match="none has it: no other role"):
        make({"image": IMAGE})


def test_cross_attention_needs_maps():
    with pytest.raises(BuildError, match="needs a role with maps"):
        CrossAttention({"view": VIEW, "text": FeatureSpec(token_dim=3)})


def test_cross_attention_names_an_unknown_level():
    with pytest.raises(BuildError, match="no map 'p7'; there are p3, p4"):
        CrossAttention(INPUTS, levels=["p7"])


def test_heads_must_divide_dim():
    with pytest.raises(BuildError, match="heads: 3 must divide dim 16"):
        CrossAttention(INPUTS, dim=16, heads=3)


def test_none_passes_extras_through():
    class Tracks(Features):
        pass

    spec = FeatureSpec(vector_dim=4, type=Tracks)
    tracks = Tracks(vector=torch.zeros(1, 4))
    fusion = NoFusion({"view": VIEW, "tracks": spec}, on="tracks")
    assert fusion.spec is spec
    assert fusion({"tracks": tracks}) is tracks
