"""What the three roles share: settings, logs, metrics, calls, health, clock, process life."""
