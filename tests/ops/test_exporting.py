"""An export chooses operations in its own thread, for as long as its context holds."""

import threading

import pytest

from mmseg_tome.ops.backend import Export, current_export, exporting, use_onnx


def test_a_choice_holds_within_the_context_alone():
    with exporting(Export(onnx=True)):
        with exporting(Export(onnx=False)):
            assert not use_onnx()
        assert use_onnx()
    assert current_export() is None


def test_an_error_ends_the_context():
    with pytest.raises(KeyError), exporting(Export(onnx=True)):
        raise KeyError
    assert not use_onnx()


def test_other_threads_do_not_export():
    heard = []
    with exporting(Export(onnx=True)):
        thread = threading.Thread(target=lambda: heard.append(use_onnx()))
        thread.start()
        thread.join()
        heard.append(use_onnx())
    assert heard == [False, True]
