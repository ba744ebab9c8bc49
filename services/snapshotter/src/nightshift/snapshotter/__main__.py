"""Runs the snapshotter: `python -m nightshift.snapshotter`."""

from nightshift.snapshotter.app import main

if __name__ == "__main__":
    main()
