import numpy as np
import pytest
from PIL import Image


class CityscapesTree:
    """Writes frames in the layout of Cityscapes."""

    def __init__(self, root):
        self.root = root

    def image_file(self, split, city, frame):
        return self.root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png"

    def label_file(self, split, city, frame, kind):
        return self.root / "gtFine" / split / city / f"{frame}_gtFine_{kind}.png"

    def add(self, frame, *, split="train", city="aachen", size=(20, 30), **labels):
        """Add an image of `size` (H, W), and a label image for each keyword (kind=array)."""
        image = np.random.default_rng(len(frame)).integers(0, 255, (*size, 3), dtype=np.uint8)
        self.save(image, self.image_file(split, city, frame))
        for kind, values in labels.items():
            self.save(values, self.label_file(split, city, frame, kind))

    @staticmethod
    def save(array, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


@pytest.fixture
def city(tmp_path):
    return CityscapesTree(tmp_path / "town")


@pytest.fixture
def instance_ids():
    """(20, 30): two cars, one of them in two parts, a group of persons, a trailer, a road."""
    ids = np.full((20, 30), 7, dtype=np.uint16)
    ids[2:6, 3:9] = 26000
    ids[10:18, 0:4] = 26001
    ids[10:18, 6:10] = 26001
    ids[0:3, 20:30] = 24
    ids[12:15, 20:25] = 30000
    return ids


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """A cache for each test alone; the folder need not exist."""
    folder = tmp_path / "user_cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
