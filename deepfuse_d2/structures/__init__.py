"""Masks as crops, run lengths: what data, evaluation, inference and drawing share."""
