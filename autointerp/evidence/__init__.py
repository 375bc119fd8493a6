"""What each head does, measured: attention statistics, chosen examples, detectors, output readouts."""
