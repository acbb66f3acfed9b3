"""What this machine needs for a map: cases, each measured in a process of its own, and reports of their records."""
