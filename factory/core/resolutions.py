"""How far two resolutions may lie apart and still count as one, as a share."""

SAME_MPP = 0.02
"""Of tiles that belong together, and of a level of a slide that is taken as it is."""

LEARNT_MPP = 0.05
"""Of what is asked from what the weights of a network were trained at."""
