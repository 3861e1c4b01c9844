"""Test-time augmentation that is right for binary models, too."""

from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel as StockSegTTAModel

from mmseg_tome.registry import MODELS


@MODELS.register_module()
class SegTTAModel(StockSegTTAModel):
    """mmseg's `SegTTAModel`, except for models whose head has a single channel.

    Such a segmentor hands on probabilities as its `seg_logits`. The stock class applies the sigmoid
    a second time: whatever is below 0.5, all of the background, ends up above it.
    """

    def merge_preds(self, data_samples_list: list[list]) -> list:
        """One prediction of those for the views of each image: their mean, held to the threshold.

        Args:
            data_samples_list: Per image the data samples of its views, whose first has the label.
        """
        if self.module.out_channels > 1:
            return super().merge_preds(data_samples_list)
        threshold = self.module.decode_head.threshold
        predictions = []
        for views in data_samples_list:
            probability = sum(view.seg_logits.data for view in views) / len(views)  # [1, H, W]
            merged = views[-1]
            merged.set_data(
                dict(
                    seg_logits=PixelData(data=probability),
                    pred_sem_seg=PixelData(data=(probability > threshold).to(probability)),
                )
            )
            if hasattr(views[0], "gt_sem_seg"):
                merged.set_data(dict(gt_sem_seg=views[0].gt_sem_seg))
            merged.set_metainfo(dict(img_path=views[0].img_path))
            predictions.append(merged)
        return predictions
