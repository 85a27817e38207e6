"""Evenkeel's trainer on the official Ultralytics package."""
