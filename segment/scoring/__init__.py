"""`segment score`: scores of label maps from any program against true ones. No torch is imported."""
