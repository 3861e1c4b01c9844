import pytest
import torch

from mmseg_tome.errors import UserError
from mmseg_tome.export import parity, program, torch_file
from mmseg_tome.export.runtime import open_exported

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("task", "tome_cfg"),
    [("segmentation", "hq"), ("segmentation", None), ("pose", "fast"), ("pose", "n2d")],
)
def test_a_reloaded_file_computes_what_the_model_computes(
    tiny, described, tmp_path, task, tome_cfg
):
    size = (97, 131) if task == "segmentation" else (96, 72)
    cfg, network = tiny(task, tome_cfg)
    metadata = described(cfg, network, size, dynamic_batch=True)
    path = tmp_path / "model.pt2"
    torch_file.write(program.trace(network, size, True, for_onnx=False), path, metadata)
    exported = open_exported(path)
    assert exported.metadata == metadata
    # Of torch alone: it loads where this package is not.
    targets = {str(node.target) for node in exported.module.graph.nodes}
    assert not any("mmseg_tome" in target for target in targets)
    for batch in (1, 4):
        images = program.random_images(size, batch)
        with torch.no_grad():
            expected = network(images).numpy()
        found = parity.compare(exported(images.numpy()), expected, task)
        assert found.holds(), found


@pytest.mark.parametrize("name", ["damaged.pt2", "damaged.onnx", "weights.pth"])
def test_what_is_no_exported_file_is_named(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(UserError, match=f"{name} does not exist"):
        open_exported(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match=f"{name} (cannot be|is no exported model)"):
        open_exported(path)
