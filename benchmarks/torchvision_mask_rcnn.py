"""Train torchvision's Mask R-CNN for a time, as its fine-tuning tutorial does: a plain script.

    python -m benchmarks.torchvision_mask_rcnn train.json val.json IMAGES WEIGHTS SECONDS SIDE OUT

What own_data_race.py compares with. The same start weights (a ResNet-18 under torchvision's names),
images of the same size, all else torchvision's defaults; SGD as in the tutorial.
"""

import json
import sys
import time

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.transforms.v2 import functional as F


class Photos(torch.utils.data.Dataset):
    def __init__(self, file, folder, train):
        self.coco, self.folder, self.train = COCO(file), folder, train
        self.ids = [i for i in self.coco.imgs if not train or self.coco.getAnnIds(i)]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, place):
        key = self.ids[place]
        path = f"{self.folder}/{self.coco.imgs[key]['file_name']}"
        image = F.to_dtype(F.pil_to_tensor(Image.open(path).convert("RGB")), scale=True)
        found = self.coco.loadAnns(self.coco.getAnnIds(key))
        masks = np.stack([self.coco.annToMask(one) for one in found]) if found else np.zeros((0,))
        boxes = torch.tensor([one["bbox"] for one in found]).reshape(-1, 4).float()
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.from_numpy(masks)
        if self.train and torch.rand(()) < 0.5:
            image, masks = image.flip(-1), masks.flip(-1)
            boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
        labels = torch.tensor([one["category_id"] for one in found])
        return image, {"boxes": boxes, "labels": labels, "masks": masks}, key


def main(train, val, images, weights, seconds, side, out, limit):
    torch.manual_seed(1)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
    state = {k: v.float() for k, v in torch.load(weights, weights_only=True).items()}
    print(backbone.body.load_state_dict(state, strict=False))
    data = Photos(train, images, True)
    model = MaskRCNN(backbone, len(data.coco.cats) + 1, min_size=side, max_size=3 * side,
                     box_detections_per_img=limit)  # fmt: skip
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.005, momentum=0.9, weight_decay=0.0005)
    loader = torch.utils.data.DataLoader(data, 2, shuffle=True, collate_fn=list, num_workers=2)
    start, steps = time.time(), 0
    while time.time() - start < seconds:
        for batch in loader:
            pictures, targets, _ = zip(*batch, strict=True)
            loss = sum(model(list(pictures), list(targets)).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            if time.time() - start >= seconds:
                break
    print(f"{steps} steps of 2 images, last loss {loss.item():.3f}")
    model.eval()
    results = []
    with torch.no_grad():
        for picture, _, image_id in Photos(val, images, False):
            found = model([picture])[0]
            fields = (found[key] for key in ("masks", "labels", "scores"))
            for mask, label, score in zip(*fields, strict=True):
                rle = mask_util.encode(np.asfortranarray((mask[0] > 0.5).numpy(), np.uint8))
                rle["counts"] = rle["counts"].decode()
                one = {"image_id": image_id, "segmentation": rle, "score": float(score)}
                results.append({**one, "category_id": int(label)})
    with open(out, "w") as file:
        json.dump(results, file)


if __name__ == "__main__":
    *files, seconds, side, out, limit = sys.argv[1:]
    main(*files, float(seconds), int(side), out, int(limit))
