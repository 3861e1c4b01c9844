import argparse

import pytest
from mmengine.config import Config

from mmseg_tome.cli import additions, options, switches
from mmseg_tome.config import say
from mmseg_tome.errors import UserError

OURS = dict(type="mmseg_tome.MixVisionTransformer", tome_cfg="hq")


def config(backbone=None, **changes) -> Config:
    cfg = Config(
        dict(
            default_scope="mmseg",
            work_dir="somewhere",
            model=dict(type="EncoderDecoder", backbone=backbone or OURS),
            optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW")),
            **changes,
        )
    )
    additions.complete(cfg, gpu=False)
    return cfg


def test_the_command_line():
    parser = argparse.ArgumentParser()
    options.add_launch(parser)
    options.add_dtype(parser, "float32")
    options.add_show_merging(parser)
    args = parser.parse_args([])
    assert (args.launch, args.dtype, args.show_merging) == (None, "float32", False)
    args = parser.parse_args(["--launch", "graphs", "--dtype", "bfloat16", "--show-merging"])
    assert (args.launch, args.dtype, args.show_merging) == ("graphs", "bfloat16", True)


@pytest.mark.parametrize("launch", ["auto", "graphs", "eager"])
def test_launch_goes_to_both_hooks(launch):
    cfg = config()
    assert list(switches.use_launch(cfg, launch, gpu=True)) == []
    for name in ("fast_inference", "fast_training"):
        assert cfg.default_hooks[name].launch == launch


def test_launch_without_a_gpu():
    cfg, untouched = config(), config()
    for launch in (None, "auto", "eager"):
        assert list(switches.use_launch(cfg, launch, gpu=False)) == []
    (line,) = switches.use_launch(cfg, "graphs", gpu=False)
    assert line == "warning: --launch graphs has no effect: there is no GPU"
    assert cfg.to_dict() == untouched.to_dict()


def test_a_stock_model_is_touched_only_if_that_is_asked_for():
    stock = dict(type="MixVisionTransformer")
    cfg, untouched = config(stock), config(stock)
    for launch in (None, "auto", "eager"):
        list(switches.use_launch(cfg, launch, gpu=True))
    for dtype in (None, "float32"):
        switches.use_dtype(cfg, dtype)
    assert cfg.to_dict() == untouched.to_dict()
    list(switches.use_launch(cfg, "graphs", gpu=True))
    switches.use_dtype(cfg, "float16")
    assert cfg.default_hooks.fast_inference == dict(
        type="mmseg_tome.FastInferenceHook", launch="graphs", dtype="float16"
    )
    assert cfg.default_hooks.fast_training.launch == "graphs"


def test_switches_go_before_the_config():
    given = dict(fast_inference=dict(launch="eager", dtype="bfloat16"), fast_training=None)
    cfg = config(default_hooks=given)
    list(switches.use_launch(cfg, "auto", gpu=True))
    switches.use_dtype(cfg, "float32")
    hook = cfg.default_hooks.fast_inference
    assert (hook.launch, hook.dtype) == ("auto", None)
    assert cfg.default_hooks.fast_training.launch == "auto"


def test_a_hook_that_the_config_leaves_out_comes_back_where_it_is_asked_for():
    names = ("fast_inference", "fast_training")
    cfg = config(dict(type="MixVisionTransformer"), default_hooks=dict.fromkeys(names))
    switches.use_dtype(cfg, "bfloat16")
    list(switches.use_launch(cfg, "graphs", gpu=True))
    assert [cfg.default_hooks[name].launch for name in names] == ["graphs", "graphs"]
    assert cfg.default_hooks.fast_inference.dtype == "bfloat16"


def test_a_hook_of_old_among_custom_hooks():
    old = dict(type="mmseg_tome.FastInferenceHook", enabled=False, graphs=False)
    cfg = config(custom_hooks=[old])
    switches.use_dtype(cfg, "bfloat16")
    assert cfg.custom_hooks[0] == {**old, "enabled": True, "dtype": "bfloat16"}
    list(switches.use_launch(cfg, "graphs", gpu=True))
    assert cfg.custom_hooks[0].launch == "graphs"
    assert "graphs" not in cfg.custom_hooks[0]
    assert "fast_inference" not in cfg.default_hooks


class TestAutocast:
    def use(self, dtype, amp=False, gpu=True, wrapper=None):
        cfg = config()
        cfg.optim_wrapper.update(wrapper or {})
        said = list(switches.use_autocast(cfg, dtype, amp, gpu))
        del cfg.optim_wrapper["optimizer"]
        return cfg.optim_wrapper.to_dict(), said

    def test_nothing_asked_for(self):
        assert self.use(None) == (dict(type="OptimWrapper"), [])
        assert self.use("float32") == (dict(type="OptimWrapper"), [])

    def test_amp_is_mms(self):
        wanted = dict(type="AmpOptimWrapper", loss_scale="dynamic")
        assert self.use(None, amp=True) == (wanted, [])
        configured = dict(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=512.0)
        assert self.use(None, amp=True, wrapper=configured) == (configured, [])

    def test_float16_scales_losses(self):
        wanted = dict(type="AmpOptimWrapper", dtype="float16", loss_scale="dynamic")
        assert self.use("float16") == (wanted, [])
        assert self.use("float16", amp=True) == (wanted, [])
        assert self.use("float16", wrapper=dict(loss_scale=512.0))[0]["loss_scale"] == 512.0

    def test_bfloat16_does_not(self):
        wanted = dict(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=dict(enabled=False))
        assert self.use("bfloat16") == (wanted, [])
        assert self.use("bfloat16", wrapper=dict(type="AmpOptimWrapper", loss_scale="dynamic")) == (
            wanted,
            [],
        )

    def test_float32_ends_autocast(self):
        configured = dict(type="AmpOptimWrapper", loss_scale="dynamic", dtype="float16")
        assert self.use("float32", wrapper=configured) == (dict(type="OptimWrapper"), [])

    def test_float16_on_a_cpu_is_told_of(self):
        _, (line,) = self.use("float16", gpu=False)
        assert line == "warning: --dtype float16 is bfloat16 here: there is no GPU"
        assert self.use("bfloat16", gpu=False)[1] == []

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_contradictions(self, dtype):
        with pytest.raises(UserError, match=f"leave it out with --dtype {dtype}"):
            self.use(dtype, amp=True)

    @pytest.mark.parametrize(
        ("given", "name"), [((None, True), "--amp"), (("float16",), "--dtype")]
    )
    def test_another_wrapper(self, given, name):
        with pytest.raises(UserError, match=f"{name}.* works with OptimWrapper, .* is Mine"):
            self.use(*given, wrapper=dict(type="Mine"))


class TestShowMerging:
    def test_our_backbone(self):
        cfg = config()
        line = switches.use_show_merging(cfg, None)
        assert line == (
            "--show-merging: pictures merging_*.png below somewhere, in vis_data/vis_image"
        )
        assert cfg.default_hooks.merging_visualization == dict(
            type="mmseg_tome.MergingVisualizationHook", enabled=True
        )
        cfg.visualizer = dict(save_dir="shown")
        assert "below shown" in switches.use_show_merging(cfg, 3)
        assert cfg.default_hooks.merging_visualization.interval == 3

    @pytest.mark.parametrize(
        ("backbone", "reason"),
        [
            (dict(type="MixVisionTransformer"), "backbone is none of mmseg_tome's"),
            (dict(type=OURS["type"]), "merges nothing, see tome_cfg"),
        ],
    )
    def test_where_nothing_merges(self, backbone, reason):
        cfg, untouched = config(backbone), config(backbone)
        line = switches.use_show_merging(cfg, None)
        assert line.startswith("warning: --show-merging has no effect: the config")
        assert line.endswith(reason)
        assert cfg.to_dict() == untouched.to_dict()


@pytest.mark.parametrize("variable", ["RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"])
def test_one_process_of_several_speaks(variable, monkeypatch, capsys):
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    say("alone", None)
    monkeypatch.setenv(variable, "0")
    say("first")
    monkeypatch.setenv(variable, "1")
    say("second")
    assert capsys.readouterr().err == "alone\nfirst\n"
