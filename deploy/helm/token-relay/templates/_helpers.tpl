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
{{ include "token-relay.chartLabels" . }}
{{- end -}}

{{- /* A "+" is allowed in a version and not in a label. */ -}}
{{- define "token-relay.chartLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | quote }}
{{- end -}}

{{- /* The pod of `helm test`: labels of its own, since the Service must not choose it. */ -}}
{{- define "token-relay.testSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "token-relay.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* "true" where the value of a setting means that; the relay takes these words. */ -}}
{{- define "token-relay.isOn" -}}
{{- if has (toString . | lower | trim) (list "true" "1" "yes" "on") -}}true{{- end -}}
{{- end -}}

{{- /* The host of PUBLIC_URL, where nothing else is given. */ -}}
{{- define "token-relay.publicHost" -}}
{{- get (urlParse .Values.settings.PUBLIC_URL) "host" | regexFind "^(\\[[^]]*\\]|[^:]*)" -}}
{{- end -}}

{{- /* Seconds of a duration such as 30s, 2m or 1h 30min; empty where it is written otherwise. */ -}}
{{- define "token-relay.seconds" -}}
{{- $rest := toString . | nospace -}}
{{- if regexMatch "^([0-9]+(s|secs?|seconds?|m|mins?|minutes?|h|hours?))+$" $rest -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" $rest -1 -}}
{{- $unit := regexFind "[a-z]" . -}}
{{- $factor := ternary 1 (ternary 60 3600 (eq $unit "m")) (eq $unit "s") -}}
{{- $sum = add $sum (mul $factor (regexFind "^[0-9]+" . | int64)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}
{{- end -}}

{{- define "token-relay.scheme" -}}
{{ if .Values.tls.existingSecret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- /* The port of an address such as 0.0.0.0:8080 or [::]:8080. */ -}}
{{- define "token-relay.port" -}}
{{- $text := toString . -}}
{{- $port := regexFind ":[0-9]+$" $text | trimPrefix ":" -}}
{{- if or (not $port) (lt (int64 $port) 1) (gt (int64 $port) 65535) -}}
{{- fail (printf "settings: %q is no address with a port, such as 0.0.0.0:8080" $text) -}}
{{- end -}}
{{- if or (hasPrefix "127." $text) (hasPrefix "localhost:" $text) (hasPrefix "[::1]:" $text) -}}
{{- fail (printf "settings: %q is reached from inside the pod alone; 0.0.0.0:%s, or [::]:%s, is reached by probes and Service" $text $port $port) -}}
{{- end -}}
{{- int64 $port -}}
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

{{- /* Values that contradict each other, which would show in the cluster only. */ -}}
{{- define "token-relay.check" -}}
{{- $settings := .Values.settings -}}
{{- $several := or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}
{{- /* Several pods share their sessions; without Redis each would have its own. */ -}}
{{- if and $several (not .Values.redis.enabled) -}}
{{- fail "replicas above 1 (or autoscaling) need Redis: put REDIS_URL into the Secret and set redis.enabled=true, or set replicas=1" -}}
{{- end -}}
{{- range $name := list "PUBLIC_URL" "OIDC_ISSUER" "OIDC_CLIENT_ID" -}}
{{- if not (get $settings $name) -}}
{{- fail (printf "settings.%s is required" $name) -}}
{{- end -}}
{{- end -}}
{{- if not (or .Values.existingSecret .Values.secretFiles.existingSecret) -}}
{{- fail "existingSecret or secretFiles.existingSecret: name of the Secret with the secret settings" -}}
{{- end -}}
{{- /* Files alone: what is not among their names is nowhere. */ -}}
{{- if not .Values.existingSecret -}}
{{- $needed := list -}}
{{- if .Values.redis.enabled -}}
{{- $needed = list "REDIS_URL" "COOKIE_KEYS" "SEALING_KEYS" "SIGNING_KEY" -}}
{{- end -}}
{{- if include "token-relay.isOn" $settings.MEET_COMPATIBLE -}}
{{- $needed = concat $needed (list "ADDONS_CSRF_SECRET" "ADDONS_TOKEN_SECRET_KEY") -}}
{{- end -}}
{{- if $settings.CLAIMS_HOOK_URL -}}
{{- $needed = append $needed "CLAIMS_HOOK_SECRET" -}}
{{- end -}}
{{- range $needed -}}
{{- if not (has . $.Values.secretFiles.names) -}}
{{- fail (printf "%s is required: add it to secretFiles.names, or name an existingSecret with TOKEN_RELAY_%s" . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.redis.enabled) .Values.secretFiles.existingSecret (has "REDIS_URL" .Values.secretFiles.names) -}}
{{- fail "secretFiles.names has REDIS_URL: set redis.enabled=true" -}}
{{- end -}}
{{- with $settings.METRICS_LISTEN -}}
{{- if eq (include "token-relay.port" .) (include "token-relay.httpPort" $) -}}
{{- fail "settings.METRICS_LISTEN and settings.LISTEN need ports of their own" -}}
{{- end -}}
{{- end -}}
{{- if regexMatch "(?m)^\\s*[\"']?secret[\"']?\\s*=" .Values.clients -}}
{{- fail "clients: a secret would stand in a ConfigMap; put it into the Secret of secretFiles and name its file in secret_file" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.from) -}}
{{- fail "networkPolicy.from: who may reach the relay, such as the namespace of the ingress controller" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled .Values.podMonitor.enabled (not .Values.networkPolicy.metricsFrom) -}}
{{- fail "networkPolicy.metricsFrom: Prometheus, which podMonitor lets ask the pods" -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- if gt (int64 .Values.autoscaling.minReplicas) (int64 .Values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- $streams := include "token-relay.text" ($settings.MAX_STREAMS | default 19000) | int64 -}}
{{- if ge (int64 .Values.autoscaling.streamsOpen) $streams -}}
{{- fail (printf "autoscaling.streamsOpen must be below settings.MAX_STREAMS (%d), which no pod exceeds" $streams) -}}
{{- end -}}
{{- end -}}
{{- with include "token-relay.seconds" ($settings.DRAIN_TIMEOUT | default "30s") -}}
{{- if lt (int64 $.Values.terminationGracePeriodSeconds) (add (int64 .) 5) -}}
{{- fail (printf "terminationGracePeriodSeconds must be %d or more: settings.DRAIN_TIMEOUT and the 5 s before it" (add (int64 .) 5)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: the Gateway" -}}
{{- end -}}
{{- if or .Values.ingress.enabled .Values.httpRoute.enabled -}}
{{- with get (urlParse $settings.PUBLIC_URL) "path" | trimSuffix "/" -}}
{{- fail (printf "settings.PUBLIC_URL has the path %s, which ingress and httpRoute do not serve: write routes of your own" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The paths that the public reaches, and how the Gateway API matches them. */ -}}
{{- define "token-relay.paths" -}}
/addons: PathPrefix
/callback: Exact
/.well-known: PathPrefix
{{- if include "token-relay.isOn" .Values.settings.MEET_COMPATIBLE }}
/api/v1.0/addons/sessions: PathPrefix
{{- if not .Values.settings.MEET_ACCOUNT_URL }}
/api/v1.0/authenticate: PathPrefix
/api/v1.0/callback: PathPrefix
/api/v1.0/logout: PathPrefix
/api/v1.0/logout-callback: PathPrefix
{{- end }}
{{- end }}
{{- end -}}
