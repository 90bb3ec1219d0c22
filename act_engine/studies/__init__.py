"""Comparing training methods: an equal search for each on held-out images, then the test images, once."""
