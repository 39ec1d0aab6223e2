"""gym-codecraft's environment, ``gym_codecraft/CodeCraft-v0``: its actions and texts, over this project's sandboxes."""
