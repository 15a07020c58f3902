"""A fake official checkpoint becomes a run's folder that core loads, and nothing is lost.

The fake is a model of ours under official names; the way there is written here anew, line by line
from the specification's tables of keys.
"""

import json
import re

import pytest
import torch

from mlkit_cli.main import main
from mlkit_core.config import load_config
from mlkit_core.errors import InputError, RunFolderError, WeightsError
from mlkit_core.model import Model
from mlkit_core.run import load_run
from mlkit_core.training import checkpoint
from mlkit_core.training.stages import build_stage
from mlkit_core.types import RoleSpec
from mlkit_core.weights import file_sha256
from mlkit_dvis.categories import OVIS
from mlkit_dvis.convert import convert_file
from mlkit_dvis.refiner.fusion import RefinerFusion
from mlkit_dvis.segmenter.encoder import Mask2FormerEncoder
from mlkit_dvis.tracker.fusion import TrackerFusion

QUERIES = 10
VIT = {
    "embed_dim": 64, "depth": 4, "vit_heads": 1, "mlp_ratio": 2.0, "pretrain_img_size": 80,
    "conv_inplane": 4, "deform_heads": 2, "n_points": 4, "cffn_ratio": 0.25,
    "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]], "patch_size": 16,
}  # fmt: skip
SEGMENTER = {
    "vit_adapter": VIT, "dim": 32, "mask_dim": 32, "num_queries": QUERIES, "encoder_layers": 1,
    "encoder_feedforward": 48, "decoder_layers": 3, "heads": 4, "feedforward": 40, "reid_dim": 32,
}  # fmt: skip
FUSION = {"heads": 4, "feedforward": 56}
FRAMES = RoleSpec(shape=(3, None, None), lead=("clip", "frame"))
OFFICIAL = (  # our names to official ones, in this order
    (r"^fusions\.tracks\.tracker\.", "tracker."),
    (r"^fusions\.refined\.refiner\.", "refiner."),
    (r"^encoders\.frames\.", ""),
    (r"^pixel_decoder\.", "sem_seg_head.pixel_decoder."),
    (r"^transformer\.", "sem_seg_head.predictor."),
    (r"^class_predictor\.", "sem_seg_head.predictor.class_embed."),
    (r"^reid_embed\.", "sem_seg_head.predictor.reid_embed."),
    (r"pixel_decoder\.input_projections\.", "pixel_decoder.input_proj."),
    (r"pixel_decoder\.level_embed", "pixel_decoder.transformer.level_embed"),
    (r"pixel_decoder\.encoder\.", "pixel_decoder.transformer.encoder."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
    (r"(encoder\.layers\.\d+)\.final_layer_norm", r"\1.norm2"),
    (r"(encoder\.layers\.\d+)\.fc([12])", r"\1.linear\2"),
    (r"mask_projection", "mask_features"),
    (r"(adapter_1|layer_1)\.0\.", r"\1."),
    (r"(adapter_1|layer_1)\.1\.", r"\1.norm."),
    (r"queries_features", "query_feat"),
    (r"queries_embedder", "query_embed"),
    (r"decoder\.layernorm", "decoder_norm"),
    (r"decoder\.mask_predictor\.mask_embedder\.(\d)\.0", r"mask_embed.layers.\1"),
    (r"decoder\.layers\.(\d+)\.self_attn\.", r"transformer_self_attention_layers.\1.self_attn."),
    (r"decoder\.layers\.(\d+)\.self_attn_layer_norm", r"transformer_self_attention_layers.\1.norm"),
    (
        r"decoder\.layers\.(\d+)\.cross_attn\.",
        r"transformer_cross_attention_layers.\1.multihead_attn.",
    ),
    (
        r"decoder\.layers\.(\d+)\.cross_attn_layer_norm",
        r"transformer_cross_attention_layers.\1.norm",
    ),
    (r"decoder\.layers\.(\d+)\.final_layer_norm", r"transformer_ffn_layers.\1.norm"),
    (r"decoder\.layers\.(\d+)\.fc([12])", r"transformer_ffn_layers.\1.linear\2"),
    (r"^backbone\.embedder\.embedder\.convolution", "backbone.stem.conv1"),
    (r"^backbone\.embedder\.embedder\.normalization", "backbone.stem.conv1.norm"),
    (r"^backbone\.encoder\.stages\.0\.layers", "backbone.res2"),
    (r"^backbone\.encoder\.stages\.1\.layers", "backbone.res3"),
    (r"^backbone\.encoder\.stages\.2\.layers", "backbone.res4"),
    (r"^backbone\.encoder\.stages\.3\.layers", "backbone.res5"),
    (r"(res\d\.\d+)\.layer\.0", r"\1.conv1"),
    (r"(res\d\.\d+)\.layer\.1", r"\1.conv2"),
    (r"(res\d\.\d+)\.layer\.2", r"\1.conv3"),
    (r"(res\d\.\d+\.\w+)\.normalization", r"\1.norm"),
    (r"(res\d\.\d+\.\w+)\.convolution", r"\1"),
)


def official_names(state):
    """Return a state dict of ours under official names, q, k and v joined."""
    renamed = {}
    for name, tensor in state.items():
        if re.search(r"backbone\.e.*num_batches_tracked", name):
            continue  # detectron2's frozen norms have none
        for pattern, new in OFFICIAL:
            name = re.sub(pattern, new, name)
        renamed[name] = tensor
    for name in [n for n in renamed if "_attention_layers" in n and ".q_proj." in n]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        renamed[re.sub(r"q_proj\.(\w+)", r"in_proj_\1", name)] = torch.cat(parts)
    return renamed


SWIN = (  # detectron2's names, likewise
    (r"swin\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"swin\.embeddings\.norm", "patch_embed.norm"),
    (r"swin\.encoder\.layers", "layers"),
    (r"attention\.(relative_position_bias\.)?", "attn."),
    (r"attn\.o_proj", "attn.proj"),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"hidden_states_norms\.stage1", "norm0"),
    (r"hidden_states_norms\.stage2", "norm1"),
    (r"hidden_states_norms\.stage3", "norm2"),
    (r"hidden_states_norms\.stage4", "norm3"),
)


def official_swin(backbone):
    """Return a Swin's weights under detectron2's names, with its tables of indices."""
    renamed = {}
    for name, tensor in backbone.state_dict().items():
        for pattern, new in SWIN:
            name = re.sub(pattern, new, name)
        renamed[f"backbone.{name}"] = tensor
    for name in [n for n in renamed if ".q_proj." in n]:
        parts = [renamed.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        renamed[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
        table = name.partition(".q_proj.")[0] + ".relative_position_index"
        renamed[table] = torch.zeros(49, 49, dtype=torch.int64)
    return {n: t for n, t in renamed.items() if "swin.layernorm" not in n}


def make_model(classes=25, *, tracker=True, refiner=True, **changes):
    torch.manual_seed(0)
    options = {"backbone": "vit-adapter"} | SEGMENTER | changes
    encoder = Mask2FormerEncoder(classes, **options)
    spec = encoder.spec.__class__(**vars(encoder.spec) | {"lead": FRAMES.lead})
    specs, fusions = {"frames": spec}, {}
    if tracker:
        fusions["tracks"] = TrackerFusion(
            specs, classes, num_queries=QUERIES, layers=2, num_slots=3, **FUSION
        )
        specs = specs | {"tracks": fusions["tracks"].spec}
    if refiner:
        fusions["refined"] = RefinerFusion(
            specs, classes, "tracks", layers=2, use_local_attn=True, num_rows=QUERIES, **FUSION
        )
        specs = specs | {"refined": fusions["refined"].spec}
    model = Model(
        {"frames": encoder}, fusions, None, reads={"frames": "frames"}, roles={"frames": FRAMES},
        specs=specs,
    )  # fmt: skip
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
    return model


def save(folder, model, **more):
    path = folder / "model_final.pth"
    torch.save({"model": official_names(model.state_dict()) | more, "iteration": 159999}, path)
    return path


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def source(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    unused = {"daq_criterion.empty_weight": torch.ones(26)}
    return save(folder, model, **unused)


@pytest.fixture(scope="module")
def converted(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "ovis"
    return out, convert_file(source, out)


def restored(out):
    stage, config, _ = load_run(out).stage_of("best")
    return stage, config


def same(state, expected):
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_whole_checkpoint_comes_back_bit_for_bit(converted, model):
    stage, _ = restored(converted[0])
    same(stage.model.state_dict(), model.state_dict())


def test_thresholds_and_sizes_are_those_of_ovis_offline(converted):
    stage, config = restored(converted[0])
    assert stage.classes == OVIS
    tracker, refiner = (part.options for part in config.fusions)
    assert tracker["inference_select_threshold"] == 0.05
    assert tracker["training_select_threshold"] == 0.1
    assert tracker["aux_inference_select_threshold"] == 0.01
    assert (tracker["ovis_infer"], tracker["num_queries"]) == (True, QUERIES)
    assert (refiner["use_local_attn"], refiner["topk_tracks"]) == (True, 40)
    assert stage.model.head.max_tracks == 20
    vit = config.encoders["frames"].options["vit_adapter"]
    assert vit == VIT


def test_every_key_stands_in_the_report_once(converted, source):
    record = json.loads((converted[0] / "conversion.json").read_text())
    official = torch.load(source, weights_only=True)["model"]
    told = [entry["old"] for entry in record["converted"] + record["unused"]]
    assert sorted(told) == sorted(official)
    shapes = {e["old"]: tuple(e["shape"]) for e in record["converted"] + record["unused"]}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in official.items()}
    assert [e["old"] for e in record["unused"]] == ["daq_criterion.empty_weight"]
    ours = {name for entry in record["converted"] for name in entry["new"]}
    added = {entry["new"] for entry in record["added"]}
    tensors = checkpoint.read(converted[0] / "best")[1]
    assert ours | added == set(tensors)
    assert not ours & added


def test_the_weights_origin_is_recorded(converted, source):
    info, _ = checkpoint.read(converted[0] / "last")
    origin = f"sha256:{file_sha256(source)} (model_final.pth)"
    assert info.weights == {
        "encoders.frames": origin,
        "fusions.tracks": origin,
        "fusions.refined": origin,
    }
    assert info.components["fusions.tracks"] == "dvis/daq-tracker"


def test_training_can_start_from_it(converted, model):
    config = load_config(converted[0] / "run.yaml")
    carried = checkpoint.read(converted[0] / "best")
    stage = build_stage(config.stages[0], 0, carried)
    same(
        {n: t for n, t in stage.model.state_dict().items() if not n.startswith("losses.")},
        model.state_dict(),
    )
    learning = {name for name, parameter in stage.named.items() if parameter.requires_grad}
    assert learning
    assert all(name.startswith("fusions.refined.") for name in learning)


def test_resuming_it_says_that_it_is_finished(converted):
    assert load_run(converted[0]).fit(resume=True).status == "finished"


@pytest.mark.parametrize(("tracker", "fusions"), [(False, []), (True, ["tracks"])])
def test_checkpoints_of_earlier_stages_have_fewer_fusions(tmp_path, tracker, fusions):
    earlier = make_model(tracker=tracker, refiner=False)
    convert_file(save(tmp_path, earlier), tmp_path / "out")
    stage, config = restored(tmp_path / "out")
    assert [part.writes for part in config.fusions] == fusions
    same(stage.model.state_dict(), earlier.state_dict())
    losses = [loss.name for loss in config.losses]
    assert losses == (["tracker-set"] if tracker else ["frame-set", "reid"])
    if tracker:
        assert config.fusions[0].options["inference_select_threshold"] == 0.1
        assert config.fusions[0].options["eval_mode"] == "inference"


def test_a_segmenter_without_reid_head_converts(tmp_path):
    plain = make_model(tracker=False, refiner=False, reid_dim=0)
    convert_file(save(tmp_path, plain), tmp_path / "out")
    stage, config = restored(tmp_path / "out")
    same(stage.model.state_dict(), plain.state_dict())
    assert [loss.name for loss in config.losses] == ["frame-set"]


def test_a_resnet_50_of_youtube_vis_converts(tmp_path):
    resnet = make_model(40, refiner=False, backbone="resnet50", vit_adapter=None)
    report = convert_file(save(tmp_path, resnet), tmp_path / "out", "ytvis2021")
    stage, config = restored(tmp_path / "out")
    expected = resnet.state_dict()
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    assert {one.new for one in report.added} == counters
    state = stage.model.state_dict()
    assert all(torch.equal(state[n], expected[n]) for n in expected.keys() - counters)
    assert config.encoders["frames"].options["norm"] == "frozen"
    tracker = config.fusions[0].options
    assert tracker["inference_select_threshold"] == 0.01
    assert tracker["training_select_threshold"] == 0.02
    assert not tracker["ovis_infer"]
    assert stage.classes[0] == "airplane"


def test_a_swin_converts(tmp_path):
    swin = make_model(refiner=False, backbone="swin-tiny", vit_adapter=None)
    official = official_names(swin.state_dict())
    official = {n: t for n, t in official.items() if not n.startswith("backbone.")}
    path = tmp_path / "model_final.pth"
    torch.save({"model": official | official_swin(swin.encoders["frames"].backbone)}, path)
    report = convert_file(path, tmp_path / "out")
    norms = [f"encoders.frames.backbone.swin.layernorm.{leaf}" for leaf in ("weight", "bias")]
    assert [one.new for one in report.added] == norms
    assert len(report.converted.unused) == 12  # one table of indices for each block
    state, expected = restored(tmp_path / "out")[0].model.state_dict(), swin.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[n], expected[n]) for n in expected.keys() - set(norms))


def test_a_folder_of_any_name_holds_a_legal_run(tmp_path, source):
    convert_file(source, tmp_path / "_öl tank")
    assert load_run(tmp_path / "_öl tank").config.name == "l-tank"


def test_an_existing_folder_is_refused(converted, source):
    before = sorted(converted[0].rglob("*"))
    with pytest.raises(RunFolderError, match="exists"):
        convert_file(source, converted[0])
    assert sorted(converted[0].rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tracker.memory.weight": torch.ones(1)}, r"unknown 1 \(tracker.memory.weight\)"),
        ({"tracker.bg_slots.weight": torch.ones(3, 8)}, "bg_slots"),
    ],
)
def test_a_refused_checkpoint_leaves_nothing_behind(tmp_path, model, change, said):
    path = save(tmp_path, model, **change)
    with pytest.raises(WeightsError, match=said):
        convert_file(path, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_classes_that_do_not_fit_are_refused(tmp_path, source):
    with pytest.raises(InputError, match="40 names, but the checkpoint has 25 classes"):
        convert_file(source, tmp_path / "out", "ytvis2019")


def test_a_backbone_that_no_encoder_has_is_refused(tmp_path, source):
    official = torch.load(source, weights_only=True)["model"]
    path = tmp_path / "model_final.pth"
    kept = {n: t for n, t in official.items() if not n.startswith("backbone.")}
    resnet = make_model(tracker=False, refiner=False, backbone="resnet50", vit_adapter=None)
    backbone = {
        n: t
        for n, t in official_names(resnet.state_dict()).items()
        if n.startswith("backbone.") and not n.startswith("backbone.res4.5.")
    }
    torch.save({"model": kept | backbone}, path)
    with pytest.raises(WeightsError, match=r"depths \(3, 4, 5, 3\), which mask2former"):
        convert_file(path, tmp_path / "out")


def test_the_verb_prints_what_it_found(tmp_path, source, capsys):
    assert main(["dvis", "convert", str(source), "-o", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out
    assert "segmenter, tracker, refiner" in said
    assert "backbone vit-adapter, 10 queries, 25 classes" in said
    assert main(["dvis", "convert", str(source), "-o", str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["source"]["sha256"] == file_sha256(source)
    assert found["detected"]["segmenter"]["num_queries"] == QUERIES
    assert found["unused"] == 1


def test_bad_input_exits_with_2_and_one_message(tmp_path, source, capsys):
    assert main(["dvis", "convert", str(tmp_path / "none.pth"), "-o", str(tmp_path / "a")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["dvis", "convert", str(source), "-o", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [f"error: {tmp_path}: exists", "hint: convert into a new folder"]
