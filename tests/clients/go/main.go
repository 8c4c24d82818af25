// azidentity and armcompute, unmodified: create, get, patch, list, delete. A line for each chapter that held.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/compute/armcompute/v6"
)

const (
	rg      = "rg"
	gallery = "goGallery"
	image   = "ubuntu"
	version = "1.0.0"
	region  = "southcentralus"
)

var (
	url          = os.Getenv("IMGSTORE_URL")
	subscription = os.Getenv("IMGSTORE_SUBSCRIPTION_ID")
	background   = context.Background()
	quick        = &runtime.PollUntilDoneOptions{Frequency: time.Second}
)

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(held bool, what ...any) {
	if !held {
		panic(fmt.Sprint(what...))
	}
}

// done waits for the end of what was begun.
func done[T any](poller *runtime.Poller[T], err error) T {
	must(err)
	result, err := poller.PollUntilDone(background, quick)
	must(err)
	return result
}

// all walks over every page of a list.
func all[T any](pager *runtime.Pager[T], count func(T) int) int {
	found := 0
	for pager.More() {
		page, err := pager.NextPage(background)
		must(err)
		found += count(page)
	}
	return found
}

func refused(err error, status int, code string) {
	var told *azcore.ResponseError
	check(errors.As(err, &told) && told.StatusCode == status && told.ErrorCode == code, "refused with ", err)
}

func main() {
	configuration := cloud.Configuration{
		ActiveDirectoryAuthorityHost: url,
		Services:                     map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: {Endpoint: url, Audience: url}},
	}
	options := policy.ClientOptions{Cloud: configuration}
	credential, err := azidentity.NewClientSecretCredential(
		os.Getenv("IMGSTORE_TENANT_ID"), os.Getenv("IMGSTORE_CLIENT_ID"), os.Getenv("IMGSTORE_CLIENT_SECRET"),
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true},
	)
	must(err)
	factory, err := armcompute.NewClientFactory(subscription, credential, &arm.ClientOptions{ClientOptions: options})
	must(err)
	for _, chapter := range []struct {
		name string
		run  func(azcore.TokenCredential, *armcompute.ClientFactory)
	}{{"group", group}, {"galleries", galleries}, {"images", images}, {"versions", versions}, {"disks", disks}, {"machines", machines}, {"the_end", theEnd}} {
		chapter.run(credential, factory)
		fmt.Println(chapter.name)
	}
}

func group(credential azcore.TokenCredential, _ *armcompute.ClientFactory) {
	token, err := credential.GetToken(background, policy.TokenRequestOptions{Scopes: []string{url + "/.default"}})
	must(err)
	body, err := json.Marshal(map[string]string{"location": region})
	must(err)
	path := url + "/subscriptions/" + subscription + "/resourcegroups/" + rg + "?api-version=2024-11-01"
	request, err := http.NewRequest(http.MethodPut, path, bytes.NewReader(body))
	must(err)
	request.Header.Set("Authorization", "Bearer "+token.Token)
	answer, err := http.DefaultClient.Do(request)
	must(err)
	defer answer.Body.Close()
	check(answer.StatusCode == http.StatusCreated, "status ", answer.StatusCode)
}

func galleries(_ azcore.TokenCredential, factory *armcompute.ClientFactory) {
	client := factory.NewGalleriesClient()
	body := armcompute.Gallery{Location: to.Ptr(region), Properties: &armcompute.GalleryProperties{Description: to.Ptr("one")}}
	made := done(client.BeginCreateOrUpdate(background, rg, gallery, body, nil))
	check(*made.Properties.Description == "one")
	update := armcompute.GalleryUpdate{Tags: map[string]*string{"a": to.Ptr("b")}}
	check(*done(client.BeginUpdate(background, rg, gallery, update, nil)).Tags["a"] == "b")
	for _, name := range []string{"page1", "page2", "page3"} {
		done(client.BeginCreateOrUpdate(background, rg, name, body, nil))
	}
	count := func(page armcompute.GalleriesClientListByResourceGroupResponse) int { return len(page.Value) }
	check(all(client.NewListByResourceGroupPager(rg, nil), count) == 4, "over several pages")
	for _, name := range []string{"page1", "page2", "page3"} {
		done(client.BeginDelete(background, rg, name, nil))
	}
	_, err := client.Get(background, rg, "none", nil)
	refused(err, http.StatusNotFound, "ResourceNotFound")
}

func images(_ azcore.TokenCredential, factory *armcompute.ClientFactory) {
	client := factory.NewGalleryImagesClient()
	body := armcompute.GalleryImage{Location: to.Ptr(region), Properties: &armcompute.GalleryImageProperties{
		OSType:           to.Ptr(armcompute.OperatingSystemTypesLinux),
		OSState:          to.Ptr(armcompute.OperatingSystemStateTypesGeneralized),
		HyperVGeneration: to.Ptr(armcompute.HyperVGenerationV1),
		Identifier:       &armcompute.GalleryImageIdentifier{Publisher: to.Ptr("p"), Offer: to.Ptr("o"), SKU: to.Ptr("s")},
	}}
	done(client.BeginCreateOrUpdate(background, rg, gallery, image, body, nil))
	update := armcompute.GalleryImageUpdate{Properties: &armcompute.GalleryImageProperties{Description: to.Ptr("golden")}}
	check(*done(client.BeginUpdate(background, rg, gallery, image, update, nil)).Properties.Description == "golden")
	shown, err := client.Get(background, rg, gallery, image, nil)
	must(err)
	check(*shown.Properties.Identifier.Publisher == "p")
}

func versions(_ azcore.TokenCredential, factory *armcompute.ClientFactory) {
	client := factory.NewGalleryImageVersionsClient()
	body := armcompute.GalleryImageVersion{Location: to.Ptr(region), Properties: &armcompute.GalleryImageVersionProperties{
		PublishingProfile: &armcompute.GalleryImageVersionPublishingProfile{TargetRegions: []*armcompute.TargetRegion{
			{Name: to.Ptr(region), RegionalReplicaCount: to.Ptr[int32](2)}, {Name: to.Ptr("eastus")},
		}},
		StorageProfile: &armcompute.GalleryImageVersionStorageProfile{OSDiskImage: &armcompute.GalleryOSDiskImage{
			Source: &armcompute.GalleryDiskImageSource{URI: to.Ptr(os.Getenv("IMGSTORE_SOURCE"))},
		}},
	}}
	made := done(client.BeginCreateOrUpdate(background, rg, gallery, image, version, body, nil))
	check(*made.Properties.ProvisioningState == armcompute.GalleryProvisioningStateSucceeded)
	update := armcompute.GalleryImageVersionUpdate{Properties: &armcompute.GalleryImageVersionProperties{
		StorageProfile:    &armcompute.GalleryImageVersionStorageProfile{},
		PublishingProfile: &armcompute.GalleryImageVersionPublishingProfile{ExcludeFromLatest: to.Ptr(true)},
	}}
	changed := done(client.BeginUpdate(background, rg, gallery, image, version, update, nil))
	check(*changed.Properties.PublishingProfile.ExcludeFromLatest)
	expand := &armcompute.GalleryImageVersionsClientGetOptions{Expand: to.Ptr(armcompute.ReplicationStatusTypesReplicationStatus)}
	shown, err := client.Get(background, rg, gallery, image, version, expand)
	must(err)
	check(*shown.Properties.ReplicationStatus.AggregatedState == armcompute.AggregatedReplicationStateCompleted)
	count := func(page armcompute.GalleryImageVersionsClientListByGalleryImageResponse) int { return len(page.Value) }
	check(all(client.NewListByGalleryImagePager(rg, gallery, image, nil), count) == 1)
	_, err = client.BeginCreateOrUpdate(background, rg, gallery, image, "1.0", body, nil)
	refused(err, http.StatusBadRequest, "InvalidParameter")
}

func disks(_ azcore.TokenCredential, factory *armcompute.ClientFactory) {
	client := factory.NewDisksClient()
	shown, err := factory.NewGalleryImageVersionsClient().Get(background, rg, gallery, image, version, nil)
	must(err)
	body := armcompute.Disk{Location: to.Ptr(region), Properties: &armcompute.DiskProperties{CreationData: &armcompute.CreationData{
		CreateOption:          to.Ptr(armcompute.DiskCreateOptionFromImage),
		GalleryImageReference: &armcompute.ImageDiskReference{ID: shown.ID},
	}}}
	made := done(client.BeginCreateOrUpdate(background, rg, "d1", body, nil))
	check(*made.Properties.ProvisioningState == "Succeeded")
	snapshot := armcompute.Snapshot{Location: to.Ptr(region), Properties: &armcompute.SnapshotProperties{CreationData: &armcompute.CreationData{
		CreateOption: to.Ptr(armcompute.DiskCreateOptionCopy), SourceResourceID: made.ID,
	}}}
	done(factory.NewSnapshotsClient().BeginCreateOrUpdate(background, rg, "s1", snapshot, nil))
	done(factory.NewSnapshotsClient().BeginDelete(background, rg, "s1", nil))
	done(client.BeginDelete(background, rg, "d1", nil))
	count := func(page armcompute.DisksClientListResponse) int { return len(page.Value) }
	check(all(client.NewListPager(nil), count) == 0)
}

func machines(_ azcore.TokenCredential, factory *armcompute.ClientFactory) {
	client := factory.NewVirtualMachinesClient()
	shown, err := factory.NewGalleryImageVersionsClient().Get(background, rg, gallery, image, version, nil)
	must(err)
	body := armcompute.VirtualMachine{Location: to.Ptr(region), Properties: &armcompute.VirtualMachineProperties{
		StorageProfile: &armcompute.StorageProfile{
			ImageReference: &armcompute.ImageReference{ID: shown.ID},
			OSDisk: &armcompute.OSDisk{
				CreateOption: to.Ptr(armcompute.DiskCreateOptionTypesFromImage),
				DeleteOption: to.Ptr(armcompute.DiskDeleteOptionTypesDelete),
			},
		},
		OSProfile: &armcompute.OSProfile{
			ComputerName: to.Ptr("host"), AdminUsername: to.Ptr("azureuser"), AdminPassword: to.Ptr("Secret-123!"),
		},
	}}
	made := done(client.BeginCreateOrUpdate(background, rg, "vm1", body, nil))
	check(*made.Properties.ProvisioningState == "Succeeded")
	check(made.Properties.OSProfile.AdminPassword == nil && !made.Properties.TimeCreated.IsZero())
	view, err := client.InstanceView(background, rg, "vm1", nil)
	must(err)
	check(*view.Statuses[len(view.Statuses)-1].Code == "PowerState/deallocated")
	done(client.BeginDeallocate(background, rg, "vm1", nil))
	_, err = client.Generalize(background, rg, "vm1", nil)
	must(err)
	done(client.BeginDelete(background, rg, "vm1", nil))
	count := func(page armcompute.DisksClientListResponse) int { return len(page.Value) }
	check(all(factory.NewDisksClient().NewListPager(nil), count) == 0)
}

func theEnd(_ azcore.TokenCredential, factory *armcompute.ClientFactory) {
	done(factory.NewGalleryImageVersionsClient().BeginDelete(background, rg, gallery, image, version, nil))
	done(factory.NewGalleryImagesClient().BeginDelete(background, rg, gallery, image, nil))
	done(factory.NewGalleriesClient().BeginDelete(background, rg, gallery, nil))
}
