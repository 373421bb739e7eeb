"""Cases of ultrasound data sets: readers, splits, samples for training, the simulator and the audit."""
