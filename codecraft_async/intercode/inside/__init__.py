"""What runs inside of a sandbox: sent there as text, it needs a Python of 3.11 or later and nothing else.

``wire`` is how the parts talk, ``values`` how values travel, ``actions`` runs the agent's code, ``server`` has it run.
"""
