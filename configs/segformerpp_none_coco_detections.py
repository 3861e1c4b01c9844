# COCO AP with detected persons: MMPose's published detections, from a detector of 56.4 AP on
# persons. There is no PCK: it compares with the annotation of the very box that was given.
_base_ = "./segformerpp_none_coco.py"
_bbox_file = "data/coco/person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
val_dataloader = dict(dataset=dict(bbox_file=_bbox_file))
test_dataloader = val_dataloader
val_evaluator = [dict(type="CocoMetric")]
test_evaluator = val_evaluator
