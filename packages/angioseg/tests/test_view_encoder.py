import itertools

import pytest
import torch
from torch.nn.functional import cosine_similarity

from mlkit_angioseg.encoders.view import ViewAngle, beam_direction, bins_of, wrap_degrees
from mlkit_core.errors import BuildError

# Six working views that a catheter laboratory uses, far apart.
VIEWS = torch.tensor(
    [[-30.0, 25.0], [-30.0, -25.0], [0.0, 30.0], [40.0, 25.0], [45.0, -25.0], [90.0, 0.0]]
)


def similarities(a, b):
    return cosine_similarity(a, b, dim=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dim", [32, 256])
def test_far_views_are_apart_and_one_degree_is_near_at_the_start(seed, dim):
    torch.manual_seed(seed)
    encoder = ViewAngle(dim=dim)
    vectors = encoder(VIEWS).vector
    pairs = list(itertools.combinations(range(len(VIEWS)), 2))
    far = similarities(vectors[[a for a, _ in pairs]], vectors[[b for _, b in pairs]])
    assert far.max() < 0.9
    for step in ([1.0, 0.0], [0.0, 1.0]):
        near = encoder(VIEWS + torch.tensor(step)).vector
        assert similarities(vectors, near).min() > 0.9


def test_gradients_reach_the_frequencies():
    torch.manual_seed(0)
    encoder = ViewAngle(dim=16, frequencies=8)
    assert encoder.frequencies.tolist() == pytest.approx([0.5 * 16 ** (i / 7) for i in range(8)])
    encoder(VIEWS).vector.pow(2).sum().backward()
    assert (encoder.frequencies.grad.abs() > 1e-6).all()


def test_angles_are_wrapped_so_that_one_view_has_one_code():
    wrapped = wrap_degrees(torch.tensor([-180.0, 180.0, 181.0, -181.0, 540.0, 30.0]))
    assert wrapped.tolist() == [180.0, 180.0, -179.0, 179.0, 180.0, 30.0]
    encoder = ViewAngle(dim=16)
    a, b = encoder(torch.tensor([[-170.0, 10.0], [190.0, 370.0]])).vector
    assert torch.allclose(a, b, atol=1e-5)


def test_an_unknown_view_gets_a_learned_code_and_no_nan():
    encoder = ViewAngle(dim=16)
    nan = float("nan")
    known = encoder(torch.tensor([[20.0, 10.0]])).vector
    out = encoder(torch.tensor([[nan, nan], [20.0, nan], [20.0, 10.0], [0.0, 0.0]]))
    assert out.vector.isfinite().all()
    assert torch.equal(out.vector[0], out.vector[1])
    assert torch.allclose(out.vector[2], known[0], atol=1e-6)
    assert not torch.allclose(out.vector[0], out.vector[3], atol=1e-2)
    out.vector[:2].sum().backward()
    assert encoder.unknown.grad.abs().sum() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in encoder.parameters())


def test_the_unit_vector_is_the_beam_of_the_c_arm():
    # DICOM: LAO 90 looks from the patient's left, CRA 90 from the head, 0/0 from the front.
    beams = beam_direction(torch.tensor([[0.0, 0.0], [90.0, 0.0], [0.0, 90.0], [-90.0, 0.0]]))
    expected = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1], [-1, 0, 0]])
    assert torch.allclose(beams, expected, atol=1e-6)
    encoder = ViewAngle(dim=8, encoding="unit-vector")
    assert encoder.frequencies is None
    assert encoder(VIEWS).tokens.shape == (6, 4, 8)


def test_each_token_says_something_of_its_own():
    torch.manual_seed(0)
    tokens = ViewAngle(dim=32, tokens=6)(VIEWS).tokens
    assert tokens.shape == (6, 6, 32)
    flat = torch.nn.functional.normalize(tokens[0], dim=1)
    assert (flat @ flat.T - torch.eye(6)).max() < 0.9


def test_bad_options_and_bad_input_are_refused():
    with pytest.raises(ValueError, match="unit-vector or categorical, got 'v2'"):
        ViewAngle(encoding="v2")
    with pytest.raises(ValueError, match="frequencies must rise"):
        ViewAngle(lowest=8, highest=0.5)
    with pytest.raises(BuildError, match=r"expected angles \[R, 2\], got \(4, 3\)"):
        ViewAngle(dim=8)(torch.zeros(4, 3))


def test_bins_are_those_of_the_catheter_laboratory():
    # RAO, AP, LAO from left to right; caudal, straight, cranial from below.
    views = torch.tensor([[-30.0, -25.0], [0.0, -25.0], [45.0, -10.0], [-10.0, 0.0], [10.1, 30.0]])
    edges = torch.tensor([-10.0, 10.0])
    assert bins_of(views, edges, edges).tolist() == [0, 1, 2, 3, 8]
    # An angle on an edge belongs below it: -10 is RAO, 10 is still AP.
    primary = torch.tensor([-10.1, -10.0, -9.9, 9.9, 10.0, 10.1])
    row = torch.stack((primary, torch.zeros(6)), 1)
    assert bins_of(row, edges, edges).tolist() == [3, 3, 4, 4, 4, 5]
    assert bins_of(row.flip(1), edges, edges).tolist() == [1, 1, 4, 4, 4, 7]


def test_angles_are_wrapped_before_they_are_put_into_bins():
    # 350 degrees are RAO 10, 190 are RAO 170 (not LAO), -180 and 180 are one view.
    torch.manual_seed(0)
    encoder = ViewAngle(dim=8, encoding="categorical")
    rao, ap, lao = torch.tensor([[-30.0, 0.0], [0.0, 0.0], [30.0, 0.0]])
    turned = torch.tensor(
        [[349.0, 0.0], [190.0, 0.0], [360.0, 360.0], [-180.0, 0.0], [-345.0, 0.0]]
    )
    found = encoder(turned).vector
    expected = encoder(torch.stack((rao, rao, ap, lao, lao))).vector
    torch.testing.assert_close(found, expected)


def test_finer_bins_have_a_code_each_and_every_token_is_the_bins_own():
    torch.manual_seed(0)
    edges = (-35.0, -10.0, 10.0, 35.0)
    encoder = ViewAngle(dim=8, encoding="categorical", tokens=5, primary_edges_deg=edges)
    assert encoder.bins.weight.shape == (5 * 3, 8)
    out = encoder(torch.tensor([[-50.0, 0.0], [-20.0, 0.0], [0.0, 0.0], [20.0, 0.0], [50.0, 0.0]]))
    assert out.tokens.shape == (5, 5, 8)
    distances = torch.cdist(out.tokens.flatten(1), out.tokens.flatten(1)) + 9 * torch.eye(5)
    assert distances.min() > 1e-2


def test_categorical_views_of_one_bin_share_a_code_and_others_do_not():
    torch.manual_seed(0)
    encoder = ViewAngle(dim=8, encoding="categorical")
    views = torch.tensor([[30.0, 20.0], [45.0, 11.0], [30.0, -20.0], [390.0, 20.0]])
    vector = encoder(torch.cat((views, torch.full((1, 2), float("nan"))))).vector
    torch.testing.assert_close(vector[0], vector[1])
    torch.testing.assert_close(vector[0], vector[3])  # 390 degrees are 30
    assert (vector[0] - vector[2]).abs().max() > 1e-2
    vector[4].sum().backward()
    assert encoder.unknown.grad.abs().sum() > 0
    assert encoder.bins.weight.grad.abs().sum() == 0
    with pytest.raises(BuildError, match="must rise"):
        ViewAngle(encoding="categorical", primary_edges_deg=(5.0, -5.0))
