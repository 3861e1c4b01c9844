"""`mmseg-tome explore` before the page is served: what it loads, what it refuses."""

import pytest

from mmseg_tome.cli import explore
from mmseg_tome.lab.explore import page
from mmseg_tome.lab.explore.comparing import Explorer


@pytest.fixture
def line(capsys, monkeypatch):
    """Run a command line with Gradio there; its exit code and what it said on stderr."""
    monkeypatch.setattr(page, "require_gradio", lambda: None)

    def run(*argv) -> tuple[int, str]:
        try:
            code = explore.main([str(each) for each in argv])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return run


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    assert explore.main(["segformerpp_hq_demo"]) == 2
    said = "error: mmseg-tome explore needs gradio: pip install 'mmseg_tome[explore]'\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "required: MODEL"),
        (("no_such_config.py",), "no_such_config.py does not exist"),
        (("segformerpp_hq_demo", "no.pth"), "checkpoint no.pth does not exist"),
        (("segformerpp_hq_demo", "--preset", "quick"), "unknown preset 'quick'"),
        (("segformerpp_hq_demo", "--port", "99999"), "--port must be between"),
        (("segformerpp_hq_demo", "--longest", "8"), "--longest must be at least 128"),
        (("nvidia/mit-b0", "--cfg-options", "model.test_cfg.mode=whole"), "are for a config"),
    ],
)
def test_lines_that_are_refused(line, argv, said):
    code, err = line(*argv)
    assert code == 2
    assert said in err


def served(monkeypatch, *argv) -> tuple[Explorer, str, int | None]:
    """What a line would serve, and where."""
    found = []
    monkeypatch.setattr(page, "require_gradio", lambda: None)
    monkeypatch.setattr(page, "serve", lambda *given: found.append(given[:3]))
    assert explore.main([str(each) for each in argv]) == 0
    return found[0]


def test_a_config_is_served_to_this_machine_alone(hq_folder, monkeypatch):
    explorer, host, port = served(
        monkeypatch, hq_folder / "tiny.py", hq_folder / "0.pth", "--device", "cpu"
    )
    assert (explorer.name, explorer.merging, host, port) == ("tiny", "hq", "127.0.0.1", None)


def test_options_change_the_config(hq_folder, monkeypatch):
    options = ("--cfg-options", "model.test_cfg.mode=whole", "--preset", "fast", "--port", "8000")
    explorer, _, port = served(
        monkeypatch, hq_folder / "tiny.py", hq_folder / "0.pth", "--device", "cpu", *options
    )
    assert explorer.model.test_cfg.mode == "whole"
    assert (explorer.merging, port) == ("fast", 8000)


def test_a_segformer_of_transformers_needs_no_config(monkeypatch, tmp_path, street):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16, num_labels=3,
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    explorer, *_ = served(monkeypatch, tmp_path, "--preset", "fast", "--device", "cpu")
    assert explorer.compare(street, "fast").kept
