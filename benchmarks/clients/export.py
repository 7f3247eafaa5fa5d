#!/usr/bin/env python3
"""detectron2's export_model.py traces and scripts models on our necks.

    git clone https://github.com/facebookresearch/detectron2 CHECKOUT
    python -m benchmarks.clients.export CHECKOUT [--output FOLDER]

Scripting (``scripting_with_instances``) is where a neck of python's dictionaries fails first.
"""

import torch
from detectron2.data import DatasetCatalog

from .checkout import arguments, import_project, narrow_config, run_script, written

NECKS = ("FPN", "DeepFuseFPN", "PAFPN", "BiFPN")


def main(argv=None):
    args = arguments(__doc__, argv)
    import_project(args.checkout, "PointRend", "point_rend")
    for neck in NECKS:
        for method in ("tracing", "scripting"):
            folder = args.output / f"{neck}_{method}"
            folder.mkdir(exist_ok=True)
            config = narrow_config(args.recipe, folder, ["MODEL.NECK.NAME", neck])
            image = DatasetCatalog.get("minicity_fine_instance_seg_val")[0]["file_name"]
            run_script(
                args.checkout, "tools/deploy/export_model.py", "--export-method", method,
                "--config-file", config, "--sample-image", image, "--output", folder,
            )  # fmt: skip
            program = torch.jit.load(folder / "model.ts")
            sample = torch.rand(3, 96, 160) * 255
            given = sample if method == "tracing" else ({"image": sample},)
            with torch.no_grad():
                print(f"{neck}, {method}: {type(program(given)).__name__} at 96 x 160")
    written(args.output)


if __name__ == "__main__":
    main()
