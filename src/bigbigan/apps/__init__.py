"""Apply a trained model: encode, classify, cluster, draw pictures, write a report, serve a web page."""
