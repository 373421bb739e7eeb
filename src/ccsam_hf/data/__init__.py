"""Cases and where they come from: readers of data sets, prompts drawn from masks, the simulator."""
