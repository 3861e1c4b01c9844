"""Token merging in the SegFormer of Hugging Face's `transformers`, switched on in place.

model = SegformerForSemanticSegmentation.from_pretrained(...)
apply_merging(model, "fast")  # or a pipeline of transformers that runs one
...
remove_merging(model)

Needs torch and, for the model, `transformers`, which is not imported here; nothing of the mm stack.
"""

from mmseg_tome.huggingface.switch import apply_merging, remove_merging

__all__ = ["apply_merging", "remove_merging"]
