"""What people do with a trained model: encode, classify, cluster, look at pictures, read a report, open a web page."""
