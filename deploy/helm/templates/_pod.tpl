{{/* The pod's template, of the StatefulSet and of the Deployment alike. */}}
{{- define "gateway.pod" -}}
metadata:
  labels:
    {{- include "gateway.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Other plans or prices are other pods: each rolls once its files are the new ones.
    checksum/config: {{ .Values.config | toJson | sha256sum }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "gateway.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  # There is no preStop: during GATEWAY_DRAIN_DELAY_S the gateway itself goes on serving while it is taken out of the Service.
  terminationGracePeriodSeconds: {{ add .Values.drain.delaySeconds .Values.drain.graceSeconds .Values.drain.marginSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: gateway
      image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      ports:
        - name: http
          containerPort: 8000
      env:
        {{- range $name := list "GATEWAY_DATABASE_URL" "GATEWAY_REDIS_URL" "GATEWAY_SECRET" "GATEWAY_ADMIN_KEY" }}
        - name: {{ $name }}
          valueFrom:
            secretKeyRef:
              name: {{ required "secret.existingSecret must name a Secret with the gateway's URLs and keys" $.Values.secret.existingSecret }}
              key: {{ $name }}
        {{- end }}
        - name: GATEWAY_HOST
          value: "0.0.0.0"
        - name: GATEWAY_PORT
          value: "8000"
        # Below the volume's root, which belongs to the cluster: the gateway makes it, for itself alone.
        - name: GATEWAY_DATA_DIR
          value: /data/gateway
        - name: GATEWAY_WORKERS
          value: {{ .Values.workers | quote }}
        - name: GATEWAY_DRAIN_DELAY_S
          value: {{ .Values.drain.delaySeconds | quote }}
        - name: GATEWAY_DRAIN_GRACE_S
          value: {{ .Values.drain.graceSeconds | quote }}
        {{- if .Values.config.plans }}
        - name: GATEWAY_PLANS_FILE
          value: /etc/gateway/plans.toml
        {{- end }}
        {{- if .Values.config.pricing }}
        - name: GATEWAY_PRICING_FILE
          value: /etc/gateway/pricing.toml
        {{- end }}
        {{- range $name, $value := .Values.settings }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
      {{- with .Values.secret.providerKeysSecret }}
      envFrom:
        - secretRef:
            name: {{ . }}
      {{- end }}
      # The first start makes the tables, under a lock; an upgrade of a large database may take a while.
      startupProbe:
        httpGet: { path: /health/live, port: http }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 150
      # Whether the process answers at all, and nothing about its stores: a restart would mend neither.
      livenessProbe:
        httpGet: { path: /health/live, port: http }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: { path: /health/ready, port: http }
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 2
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: data
          mountPath: /data
        {{- if include "gateway.hasFiles" . }}
        - name: config
          mountPath: /etc/gateway
          readOnly: true
        {{- end }}
  {{- if or (not .Values.persistence.enabled) (include "gateway.hasFiles" .) }}
  volumes:
    {{- if not .Values.persistence.enabled }}
    - name: data
      emptyDir:
        sizeLimit: {{ .Values.persistence.size }}
    {{- end }}
    {{- if include "gateway.hasFiles" . }}
    - name: config
      configMap:
        name: {{ include "gateway.name" . }}
    {{- end }}
  {{- end }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "gateway.selector" . | nindent 10 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
