"""deploy/prometheus and deploy/grafana, against what they are written for: `/metrics`, PromQL, Prometheus and Grafana."""
