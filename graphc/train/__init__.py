"""Training: data, optimizers, schedules, the loop and what it saves."""
