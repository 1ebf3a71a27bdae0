{{- define "token-relay.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "token-relay.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "token-relay.labels" -}}
{{ include "token-relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "token-relay.scheme" -}}
{{ if .Values.tls.existingSecret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- /* The port of an address such as 0.0.0.0:8080 or [::]:8080. */ -}}
{{- define "token-relay.port" -}}
{{- $port := regexFind "[0-9]+$" (toString .) -}}
{{- if or (not $port) (not (contains ":" (toString .))) -}}
{{- fail (printf "settings: %q is no address with a port, such as 0.0.0.0:8080" (toString .)) -}}
{{- end -}}
{{- $port -}}
{{- end -}}

{{- define "token-relay.httpPort" -}}
{{- include "token-relay.port" (.Values.settings.LISTEN | default "0.0.0.0:8080") -}}
{{- end -}}

{{- /* The name of the port that serves /metrics. */ -}}
{{- define "token-relay.metricsPort" -}}
{{- if .Values.settings.METRICS_LISTEN -}}metrics{{- else -}}http{{- end -}}
{{- end -}}

{{- /* Values arrive as float64 where they were numbers: 1048576 must not become 1.048576e+06. */ -}}
{{- define "token-relay.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{- define "token-relay.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "token-relay.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* Several pods share their sessions; without Redis each would have its own. */ -}}
{{- define "token-relay.check" -}}
{{- $several := or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}
{{- if and $several (not .Values.redis.enabled) -}}
{{- fail "replicas above 1 (or autoscaling) need Redis: put REDIS_URL into the Secret and set redis.enabled=true, or set replicas=1" -}}
{{- end -}}
{{- range $name := list "PUBLIC_URL" "OIDC_ISSUER" "OIDC_CLIENT_ID" -}}
{{- if not (get $.Values.settings $name) -}}
{{- fail (printf "settings.%s is required" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.redis.enabled (not .Values.existingSecret) (not (has "REDIS_URL" .Values.secretFiles.names)) -}}
{{- fail "redis.enabled: add REDIS_URL to secretFiles.names, or name an existingSecret with TOKEN_RELAY_REDIS_URL" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.from) -}}
{{- fail "networkPolicy.from: who may reach the relay, such as the namespace of the ingress controller" -}}
{{- end -}}
{{- end -}}

{{- /* The paths that the public reaches, and how the Gateway API matches them. */ -}}
{{- define "token-relay.paths" -}}
/addons: PathPrefix
/callback: Exact
/.well-known: PathPrefix
{{- if .Values.settings.MEET_COMPATIBLE }}
/api/v1.0/addons/sessions: PathPrefix
{{- if not .Values.settings.MEET_ACCOUNT_URL }}
/api/v1.0/authenticate: PathPrefix
/api/v1.0/callback: PathPrefix
/api/v1.0/logout: PathPrefix
/api/v1.0/logout-callback: PathPrefix
{{- end }}
{{- end }}
{{- end -}}
