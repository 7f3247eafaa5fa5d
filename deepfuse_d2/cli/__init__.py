"""The command ``deepfuse``: one file a subcommand.

Such a file has a docstring, which is its help; ``add_arguments(parser)``; and ``run(args)``, which
returns an exit code or None. It imports at its top what is light alone, since help and completion
read all of them; ``run`` imports what it needs.
"""
