"""Image classification with the modified ResNet (Section 7.2, Appendix G): where images come from, and the task."""
