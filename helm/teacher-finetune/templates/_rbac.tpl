{{/*
What may be done, each rule with its reason above it. docs/rbac.md is made from these comments, and a test fails when a
rule has none.
*/}}
{{- define "teacher-finetune.operatorRules" -}}
# The objects are what the operator works on. It never writes their spec.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes]
  verbs: [get, list, watch]
# Conditions, progress and results are written into the status.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes/status]
  verbs: [get, patch]
# Children name the object as their owner, so that they go with it. Where OwnerReferencesPermissionEnforcement is on, as
# on OpenShift, that needs this right. No finalizer is ever set.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes/finalizers]
  verbs: [update]
# Inspection and trainers are Jobs. They are suspended and resumed by a patch, and deleted when their time is up.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
# Pods of the Jobs tell what happens: waiting for a GPU, running, why they ended.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Progress and the last lines before a failure are read from the trainers' logs.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# The request of a run is a ConfigMap that inspection mounts. One of the same name is read, for its owner: that of
# somebody else is waited for, never changed.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
# Trainers on several nodes find each other through a headless Service. One of the same name is read, for its owner: that
# of somebody else is waited for, never changed.
- apiGroups: [""]
  resources: [services]
  verbs: [get, create, patch]
{{- if .Values.runNetworkPolicy.enabled }}
# With runNetworkPolicy.enabled each run has a NetworkPolicy of its own. One of the same name is read, for its owner: that
# of somebody else is waited for, never changed.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
{{- end }}
# What happens to an object is told as Events beside it; those of its pods say why one cannot be placed.
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- end -}}

{{- define "teacher-finetune.leaseRules" -}}
# The first operator makes the Lease. The name cannot be limited here: it is not known yet when an object is created.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# The leader renews its Lease; the others look whether it still does.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "teacher-finetune.leaseName" . }}]
  verbs: [get, update]
{{- end -}}

{{- define "teacher-finetune.reviewRules" -}}
# The bearer of a token that asks for the metrics is learned by a TokenReview.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
# A SubjectAccessReview says whether that may read them.
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
{{- end -}}

{{- define "teacher-finetune.viewRules" -}}
# Whoever may look at a namespace may look at its runs.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes, teacherfinetunes/status]
  verbs: [get, list, watch]
{{- end -}}

{{- define "teacher-finetune.editRules" -}}
# Whoever may run workloads in a namespace may run trainings there. The status is the operator's alone.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes]
  verbs: [create, update, patch, delete, deletecollection]
{{- end -}}

{{- define "teacher-finetune.testRules" -}}
# `helm test` sends one object as a dry run. Nothing is stored, but the right is that of creating.
- apiGroups: [finetune.dev]
  resources: [teacherfinetunes]
  verbs: [create]
{{- end -}}
