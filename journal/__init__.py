"""The run folder: what every finished link left, so that a run can go on, be read and be undone."""
