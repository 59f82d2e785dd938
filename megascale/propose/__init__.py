"""From a law to a schedule, its savings and its form for other trainers."""
