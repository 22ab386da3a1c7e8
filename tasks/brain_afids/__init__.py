"""The brain task: training cases made from one template and the landmark shapes of sixty people."""
