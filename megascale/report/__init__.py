"""Pictures and pages made from run logs and laws."""
