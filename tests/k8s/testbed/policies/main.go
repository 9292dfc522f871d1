// Says which traffic NetworkPolicies let through: cyclonus judges each pair of pods and each port, as JSON in and out.
//
// stdin:  {"policies": [NetworkPolicy ...], "pods": [{"name", "namespace", "namespaceLabels", "labels", "ip"}], "ports": [{"port", "protocol"}]}
// stdout: [{"from", "to", "port", "protocol"} ...], those that are allowed on both ends. A pod without a namespace is outside of the cluster.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
)

type pod struct {
	Name            string            `json:"name"`
	Namespace       string            `json:"namespace"`
	NamespaceLabels map[string]string `json:"namespaceLabels"`
	Labels          map[string]string `json:"labels"`
	IP              string            `json:"ip"`
}

type port struct {
	Port     int    `json:"port"`
	Protocol string `json:"protocol"`
}

type allowed struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Port     int    `json:"port"`
	Protocol string `json:"protocol"`
}

func (p pod) peer() *matcher.TrafficPeer {
	peer := &matcher.TrafficPeer{IP: p.IP}
	if p.Namespace != "" {
		peer.Internal = &matcher.InternalPeer{PodLabels: p.Labels, NamespaceLabels: p.NamespaceLabels, Namespace: p.Namespace}
	}
	return peer
}

func main() {
	var input struct {
		Policies []*networking.NetworkPolicy `json:"policies"`
		Pods     []pod                       `json:"pods"`
		Ports    []port                      `json:"ports"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		log.Fatal(err)
	}
	policy := matcher.BuildNetworkPolicies(false, input.Policies)
	found := []allowed{}
	for _, from := range input.Pods {
		for _, to := range input.Pods {
			if from.Name == to.Name && from.Namespace == "" {
				continue
			}
			for _, at := range input.Ports {
				traffic := &matcher.Traffic{Source: from.peer(), Destination: to.peer(), ResolvedPort: at.Port, Protocol: core.Protocol(at.Protocol)}
				if policy.IsTrafficAllowed(traffic).IsAllowed() {
					found = append(found, allowed{from.Name, to.Name, at.Port, at.Protocol})
				}
			}
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		log.Fatal(err)
	}
}
