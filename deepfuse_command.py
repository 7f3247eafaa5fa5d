"""Entry of the command ``deepfuse``; outside of the package, whose import takes seconds.

Importing ``deepfuse_d2`` registers everything with detectron2, and so loads torch. Help, completion
and wrong arguments need the parsers alone: while they are read, :data:`is_parsing` tells the
package to leave the registrations out. They are made before a command runs.
"""

import sys

is_parsing = False


def main() -> int:
    global is_parsing
    is_parsing = True
    from deepfuse_d2.cli.main import parse, run

    args = parse(sys.argv[1:])
    is_parsing = False
    return run(args)
