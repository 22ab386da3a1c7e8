"""Training: coarse net, then the fine nets, from a task file and a folder of annotated scans."""
