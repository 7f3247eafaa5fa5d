"""detectron2's tools and projects as clients of this package, from checkouts of their own."""
