"""Referenced objects must exist."""

from copy import deepcopy

import pytest

from tests.k8s.check.mutation import WHOLE, Mutation, broken, changed, copied, findings, one, set_at

POD = "spec.template.spec"
HEAD = "spec.rayClusterConfig.headGroupSpec.template.spec"

MUTATIONS = [
    Mutation(
        rule="references/config_maps",
        object="Deployment/web",
        path=f"{POD}.containers[0].envFrom[0].configMapRef.name",
        value="setings",
        says="no ConfigMap 'setings' in namespace prod; there are: settings; did you mean"
        " 'settings'?. Add it, or declare it: --external ConfigMap/setings",
    ),
    Mutation(
        rule="references/config_maps",
        object="RayService/sampling",
        path=f"{HEAD}.volumes",
        value=[{"name": "v", "projected": {"sources": [{"configMap": {"name": "nowhere"}}]}}],
        found=f"{HEAD}.volumes[0].projected.sources[0].configMap.name",
        says="no ConfigMap 'nowhere'",
    ),
    Mutation(
        rule="references/config_maps",
        object="RayService/sampling",
        path="spec.rayClusterConfig.autoscalerOptions",
        value={"envFrom": [{"configMapRef": {"name": "nowhere"}}]},
        found="spec.rayClusterConfig.autoscalerOptions.envFrom[0].configMapRef.name",
        says="no ConfigMap 'nowhere'",
    ),
    Mutation(
        rule="references/secrets",
        object="StatefulSet/redis",
        path=f"{POD}.containers[0].env[0].valueFrom.secretKeyRef.name",
        value="redis",
        says="no Secret 'redis' in namespace prod; there are: redis-password",
    ),
    Mutation(
        rule="references/secrets",
        object="Deployment/web",
        path=f"{POD}.imagePullSecrets",
        value=[{"name": "registry"}],
        found=f"{POD}.imagePullSecrets[0].name",
        says="no Secret 'registry'",
    ),
    Mutation(
        rule="references/secrets",
        object="RayService/sampling",
        path="spec.rayClusterConfig.gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef"
        ".name",
        value="redis-pasword",
        says="did you mean 'redis-password'?",
    ),
    Mutation(
        rule="references/secrets",
        object="ServiceAccount/web",
        path="imagePullSecrets",
        value=[{"name": "registry"}],
        found="imagePullSecrets[0].name",
        says="no Secret 'registry'",
    ),
    Mutation(
        rule="references/secrets",
        object="Ingress/web",
        path="spec.tls",
        value=[{"hosts": ["example.com"], "secretName": "tls"}],
        found="spec.tls[0].secretName",
        says="no Secret 'tls'",
    ),
    Mutation(
        rule="references/secrets",
        object="ServiceMonitor/web",
        path="spec.endpoints[0].authorization",
        value={"credentials": {"name": "token", "key": "token"}},
        found="spec.endpoints[0].authorization.credentials.name",
        says="no Secret 'token'",
    ),
    Mutation(
        rule="references/claims",
        object="Deployment/web",
        path=f"{POD}.volumes[1].persistentVolumeClaim.claimName",
        value="artefacts",
        says="there are: artifacts; did you mean 'artifacts'?",
    ),
    Mutation(
        rule="references/service_accounts",
        object="RayJob/training",
        path="spec.submitterPodTemplate.spec.serviceAccountName",
        value="submitter",
        says="no ServiceAccount 'submitter' in namespace prod; there are: web",
    ),
    Mutation(
        rule="references/service_accounts",
        object="RoleBinding/web-reads",
        path="subjects[0].namespace",
        value="other",
        found="subjects[0].name",
        says="no ServiceAccount 'web' in namespace other; there is none; there is one in namespace"
        " prod",
    ),
    Mutation(
        rule="references/targets",
        object="HorizontalPodAutoscaler/web",
        path="spec.scaleTargetRef.name",
        value="wep",
        found="spec.scaleTargetRef",
        says="no Deployment 'wep'",
    ),
    Mutation(
        rule="references/targets",
        object="Ingress/web",
        path="spec.rules[0].http.paths[1].backend.service.name",
        value="sampling-serv-svc",
        says="did you mean 'sampling-serve-svc'?",
    ),
    Mutation(
        rule="references/targets",
        object="RoleBinding/web-reads",
        path="roleRef.name",
        value="writer",
        says="no Role 'writer'",
    ),
    Mutation(
        rule="references/targets",
        object="StatefulSet/redis",
        path="spec.serviceName",
        value="redis-headless",
        says="no Service 'redis-headless'",
    ),
    Mutation(
        rule="references/targets",
        object="RayJob/training",
        path="spec.clusterSelector",
        value={"ray.io/cluster": "big"},
        found="spec.clusterSelector['ray.io/cluster']",
        says="no RayCluster 'big'",
    ),
    Mutation(
        rule="references/keys",
        object="Deployment/web",
        path=f"{POD}.containers[0].env[1].valueFrom.secretKeyRef.key",
        value="pasword",
        says="Secret redis-password has no key 'pasword'; there are: password; did you mean",
    ),
    Mutation(
        rule="references/keys",
        object="Deployment/web",
        path=f"{POD}.volumes[0].configMap.items[0].key",
        value="site.conf",
        says="ConfigMap settings has no key 'site.conf'; there are: LOG_LEVEL, web.conf",
    ),
    Mutation(
        rule="references/mounts",
        object="RayJob/training",
        path="spec.rayClusterSpec.workerGroupSpecs[1].template.spec.containers[0].volumeMounts",
        value=[{"name": "shm", "mountPath": "/dev/shm"}],
        found="spec.rayClusterSpec.workerGroupSpecs[1].template.spec.containers[0]"
        ".volumeMounts[0].name",
        says="the pod has no volume 'shm'; there are: ray-logs, shared-mem",
    ),
    Mutation(
        rule="references/duplicates",
        object="Service/redis",
        path="metadata.name",
        value="web",
        by="Service/web",
        others=True,
        says="another Service of this name is in the set",
    ),
]


@pytest.mark.parametrize("external", ["Secret/registry", "Secret/reg*"])
def test_objects_declared_external_may_be_referenced(external: str) -> None:
    documents = broken(next(m for m in MUTATIONS if m.path == f"{POD}.imagePullSecrets"))
    assert findings(documents, external) == []
    assert len(findings(documents, "ConfigMap/registry")) == 1
    one(documents, "Deployment/web")["metadata"]["annotations"] = {
        "aigc/external": f"ConfigMap/x, {external}"
    }
    assert findings(documents) == []


def test_annotation_applies_to_its_own_object_only() -> None:
    documents = broken(next(m for m in MUTATIONS if m.path == f"{POD}.imagePullSecrets"))
    one(documents, "Service/web")["metadata"]["annotations"] = {"aigc/external": "Secret/registry"}
    assert len(findings(documents)) == 1


def test_optional_references_may_dangle() -> None:
    documents = changed(
        (
            "Deployment/web",
            f"{POD}.containers[0].envFrom[0].configMapRef",
            {"name": "nowhere", "optional": True},
        )
    )
    assert findings(documents) == []


def test_optional_key_may_be_missing() -> None:
    documents = deepcopy(WHOLE)
    named = {"name": "settings", "key": "LANGUAGE", "optional": True}
    variable = {"name": "LANGUAGE", "valueFrom": {"configMapKeyRef": named}}
    one(documents, "Deployment/web")["spec"]["template"]["spec"]["containers"][0]["env"].append(
        variable
    )
    assert findings(documents) == []
    named["optional"] = False
    assert [each.rule for each in findings(documents)] == ["references/keys"]


def test_cluster_roles_are_without_namespace() -> None:
    documents = changed(
        ("RoleBinding/web-reads", "roleRef", {"kind": "ClusterRole", "name": "list"})
    )
    assert [each.rule for each in findings(documents)] == ["references/targets"]
    documents.append({"kind": "ClusterRole", "metadata": {"name": "list"}})
    assert findings(documents) == []
    set_at(one(documents, "RoleBinding/web-reads"), "roleRef.name", "view")
    assert findings(documents) == []


def test_kuberay_token_secret_may_be_referenced() -> None:
    cluster = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "ray", "namespace": "prod"},
        "spec": {"authOptions": {"mode": "token"}},
    }
    documents = [*deepcopy(WHOLE), cluster]
    set_at(
        one(documents, "Deployment/web"),
        f"{POD}.containers[0].env[1].valueFrom.secretKeyRef",
        {"name": "ray", "key": "auth_token"},
    )
    assert findings(documents) == []
    cluster["spec"] = {"authOptions": {"mode": "token", "secretName": "token"}}
    assert [each.message[:17] for each in findings(documents)] == [
        "no Secret 'ray' i",
        "no Secret 'token'",
    ]


def test_targets_of_every_scaler_are_followed() -> None:
    for kind, field in (("ScaledObject", "scaleTargetRef"), ("VerticalPodAutoscaler", "targetRef")):
        scaler = {
            "kind": kind,
            "metadata": {"name": "web", "namespace": "prod"},
            "spec": {field: {"name": "wep"}},
        }
        (found,) = findings([*WHOLE, scaler])
        assert (found.kind, found.path) == (kind, f"spec.{field}")
        assert "no Deployment 'wep'" in found.message


def test_objects_of_cluster_and_operators_may_be_referenced() -> None:
    documents, web = copied("Deployment/web")
    names = ("sealed", "pulled", "certificate", "tls", "csi")
    sources = [{"secret": {"name": name}} for name in names]
    sources.append({"configMap": {"name": "kube-root-ca.crt"}})
    web["spec"]["template"]["spec"]["volumes"].append(
        {"name": "made", "projected": {"sources": sources}}
    )
    web["spec"]["template"]["spec"]["volumes"].append(
        {"name": "redis", "persistentVolumeClaim": {"claimName": "data-redis-0"}}
    )
    web["spec"]["template"]["spec"]["serviceAccountName"] = "default"
    for kind, name, spec in (
        ("SealedSecret", "sealed", {}),
        ("ExternalSecret", "x", {"target": {"name": "pulled"}}),
        ("Certificate", "x", {"secretName": "certificate"}),
        ("SecretProviderClass", "x", {"secretObjects": [{"secretName": "csi"}]}),
    ):
        documents.append(
            {"kind": kind, "metadata": {"name": name, "namespace": "prod"}, "spec": spec}
        )
    ingress = one(documents, "Ingress/web")
    ingress["metadata"]["annotations"] = {"cert-manager.io/cluster-issuer": "letsencrypt"}
    ingress["spec"]["tls"] = [{"secretName": "tls"}]
    assert findings(documents) == []
    del documents[-1]
    assert [each.message[:15] for each in findings(documents)] == ["no Secret 'csi'"]
