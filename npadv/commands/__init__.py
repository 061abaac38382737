"""The commands of the command line: one file each, and beside them the modules they share.

``demo``, ``train``, ``attack`` and ``evaluate`` each have ``add_options(parser)`` and ``run(arguments)``, which loads,
computes and writes.
"""
