"""Datasets and pictures as they lie on disks and on the web: opened, found, downloaded, decoded."""
