// It decodes Kubernetes manifests into the types that they are of, field by field, and
// fails on what these do not have: .ci/run builds it for the end-to-end tests, as
// "manifests".
package main

import (
	"bytes"
	"fmt"
	"os"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	monitoringv1alpha1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1alpha1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

var kinds = map[string]func() any{
	"v1/Namespace":                                func() any { return &corev1.Namespace{} },
	"v1/Secret":                                   func() any { return &corev1.Secret{} },
	"v1/ConfigMap":                                func() any { return &corev1.ConfigMap{} },
	"v1/PersistentVolumeClaim":                    func() any { return &corev1.PersistentVolumeClaim{} },
	"v1/Service":                                  func() any { return &corev1.Service{} },
	"apps/v1/Deployment":                          func() any { return &appsv1.Deployment{} },
	"networking.k8s.io/v1/NetworkPolicy":          func() any { return &networkingv1.NetworkPolicy{} },
	"monitoring.coreos.com/v1/ServiceMonitor":     func() any { return &monitoringv1.ServiceMonitor{} },
	"monitoring.coreos.com/v1/PrometheusRule":     func() any { return &monitoringv1.PrometheusRule{} },
	"monitoring.coreos.com/v1alpha1/ScrapeConfig": func() any { return &monitoringv1alpha1.ScrapeConfig{} },
}

func main() {
	failed := false
	for _, file := range os.Args[1:] {
		text, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for i, doc := range bytes.Split(text, []byte("\n---\n")) {
			var of metav1.TypeMeta
			if err := yaml.Unmarshal(doc, &of); err != nil {
				fmt.Fprintf(os.Stderr, "%s, document %d: %v\n", file, i+1, err)
				failed = true
				continue
			}
			name := of.APIVersion + "/" + of.Kind
			make := kinds[name]
			if make == nil {
				fmt.Fprintf(os.Stderr, "%s, document %d: no kind %s is known\n", file, i+1, name)
				failed = true
				continue
			}
			if err := yaml.UnmarshalStrict(doc, make()); err != nil {
				fmt.Fprintf(os.Stderr, "%s, %s: %v\n", file, name, err)
				failed = true
				continue
			}
			fmt.Println(name)
		}
	}
	if failed || len(os.Args) < 2 {
		os.Exit(1)
	}
}
