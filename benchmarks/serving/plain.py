"""detectron2's DefaultPredictor in an app of a few lines, as tutorials write it.

python -m benchmarks.serving.plain MODEL_FOLDER PORT
"""

import sys

import cv2
import numpy as np
import torch
import uvicorn
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from fastapi import Body, FastAPI

from deepfuse_d2 import load_config
from deepfuse_d2.checkpoint import DeepFuseCheckpointer


def main(folder: str, port: int) -> None:
    cfg = load_config(folder, ["MODEL.DEVICE", "cpu"])
    weights, cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS, ""
    predictor = DefaultPredictor(cfg)
    DeepFuseCheckpointer(predictor.model).load(weights)
    app = FastAPI()

    @app.post("/predict")
    def predict(image: bytes = Body(media_type="application/octet-stream")):
        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        with torch.no_grad():
            found = predictor(pixels)["instances"].to("cpu")
        return instances_to_coco_json(found, 0)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
