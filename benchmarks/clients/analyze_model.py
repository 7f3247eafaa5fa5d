#!/usr/bin/env python3
"""detectron2's analyze_model.py counts a model of ours: operations, activations, parameters.

    git clone https://github.com/facebookresearch/detectron2 CHECKOUT
    python -m benchmarks.clients.analyze_model CHECKOUT [--recipe NAME] [--output FOLDER]

The data set of the recipe must lie where DETECTRON2_DATASETS says (MiniCity is generated).
"""

from .checkout import arguments, narrow_config, run_script


def main(argv=None):
    args = arguments(__doc__, argv)
    config = narrow_config(args.recipe, args.output)
    run_script(
        args.checkout, "tools/analyze_model.py", "--config-file", config, "--num-inputs", 2,
        "--tasks", "flop", "activation", "parameter", "structure",
    )  # fmt: skip


if __name__ == "__main__":
    main()
