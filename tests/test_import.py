"""import deepfuse_d2: quick, and without a look at files, network or GPU."""

import subprocess
import sys

SECONDS = """
import time
import detectron2.data, detectron2.engine, detectron2.evaluation, detectron2.modeling
start = time.process_time()
import deepfuse_d2
print(time.process_time() - start)
"""

# Everything opened, apart from the modules themselves.
OPENED = """
import sys
import detectron2.data, detectron2.engine, detectron2.evaluation, detectron2.modeling
opened = []
def watch(event, arguments):
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc", ".so")):
        opened.append(str(arguments[0]))
    if event.startswith("socket."):
        opened.append(event)
sys.addaudithook(watch)
import deepfuse_d2
import torch
print([name for name in opened if ".pyc." not in name], torch.cuda.is_initialized())
"""


def run(script):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_import_adds_at_most_three_tenths_of_a_second_to_detectron2():
    assert min(float(run(SECONDS)) for _ in range(2)) < 0.3


def test_import_opens_no_file_no_socket_and_no_gpu():
    assert run(OPENED) == "[] False"


def test_import_registers_necks_backbones_and_data_sets():
    script = """
import deepfuse_d2
from detectron2.data import DatasetCatalog
from detectron2.modeling import BACKBONE_REGISTRY
from deepfuse_d2.modeling import NECK_REGISTRY
print("build_neck_backbone" in BACKBONE_REGISTRY, "DeepFuseFPN" in NECK_REGISTRY)
names = ("minicity_fine_instance_seg_train", "cityscapes_fine_instance_seg_val", "pennfudan_val")
print(all(name in DatasetCatalog for name in names))
"""
    assert run(script) == "True True\nTrue"
