"""What every part of the factory stands on; nothing here imports torch."""
