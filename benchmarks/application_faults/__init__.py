"""What predict-many and serve lose, and whom they let in, when all around them goes wrong."""
