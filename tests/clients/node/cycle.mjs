// @azure/identity and @azure/arm-compute, unmodified: create, get, patch, list, delete. A line for each chapter that held.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

// The clients lie in a folder of their own, made from the lock file beside this one.
const require = createRequire(`${process.env.IMGSTORE_MODULES}/`);
const { ClientSecretCredential } = require("@azure/identity");
const { ComputeManagementClient } = require("@azure/arm-compute");

const env = process.env;
const url = env.IMGSTORE_URL;
const location = "southcentralus";
const [rg, gallery, image] = ["rg", "nodeGallery", "ubuntu"];
const credential = new ClientSecretCredential(
  env.IMGSTORE_TENANT_ID,
  env.IMGSTORE_CLIENT_ID,
  env.IMGSTORE_CLIENT_SECRET,
  { authorityHost: url, disableInstanceDiscovery: true },
);
const client = new ComputeManagementClient(credential, env.IMGSTORE_SUBSCRIPTION_ID, {
  endpoint: url,
  credentials: { scopes: [`${url}/.default`] },
});
const quick = { updateIntervalInMs: 0 };

async function names(list) {
  const found = [];
  for await (const each of list) found.push(each.name);
  return found;
}

async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return [error.statusCode, error.code];
  }
  assert.fail("it was not refused");
}

async function group() {
  const { token } = await credential.getToken(`${url}/.default`);
  const path = `${url}/subscriptions/${env.IMGSTORE_SUBSCRIPTION_ID}/resourcegroups/${rg}?api-version=2024-11-01`;
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const answer = await fetch(path, { method: "PUT", headers, body: JSON.stringify({ location }) });
  assert.equal(answer.status, 201);
}

async function galleries() {
  const made = await client.galleries.beginCreateOrUpdateAndWait(rg, gallery, { location, description: "one" }, quick);
  assert.equal(made.description, "one");
  const changed = await client.galleries.beginUpdateAndWait(rg, gallery, { description: "two", tags: { a: "b" } }, quick);
  assert.deepEqual([changed.description, changed.tags], ["two", { a: "b" }]);
  for (const number of [1, 2, 3]) await client.galleries.beginCreateOrUpdateAndWait(rg, `page${number}`, { location }, quick);
  assert.equal((await names(client.galleries.listByResourceGroup(rg))).length, 4, "over several pages");
  for (const number of [1, 2, 3]) await client.galleries.beginDeleteAndWait(rg, `page${number}`, quick);
  assert.deepEqual(await names(client.galleries.list()), [gallery]);
  assert.deepEqual(await refused(client.galleries.get(rg, "none")), [404, "ResourceNotFound"]);
}

async function images() {
  const identifier = { publisher: "p", offer: "o", sku: "s" };
  const body = { location, osType: "Linux", osState: "Generalized", hyperVGeneration: "V1", identifier };
  const made = await client.galleryImages.beginCreateOrUpdateAndWait(rg, gallery, image, body, quick);
  assert.equal(made.provisioningState, "Succeeded");
  const update = { description: "golden" };
  const changed = await client.galleryImages.beginUpdateAndWait(rg, gallery, image, update, quick);
  assert.equal(changed.description, "golden");
  assert.deepEqual(await names(client.galleryImages.listByGallery(rg, gallery)), [image]);
}

async function versions() {
  const { galleryImageVersions: versions } = client;
  const targetRegions = [{ name: location, regionalReplicaCount: 2 }, { name: "eastus" }];
  const storageProfile = { osDiskImage: { source: { uri: env.IMGSTORE_SOURCE } } };
  const body = { location, publishingProfile: { targetRegions }, storageProfile };
  const made = await versions.beginCreateOrUpdateAndWait(rg, gallery, image, "1.0.0", body, quick);
  assert.equal(made.provisioningState, "Succeeded");
  const shown = await versions.get(rg, gallery, image, "1.0.0", { expand: "ReplicationStatus" });
  assert.equal(shown.replicationStatus.aggregatedState, "Completed");
  const update = { publishingProfile: { excludeFromLatest: true } };
  const changed = await versions.beginUpdateAndWait(rg, gallery, image, "1.0.0", update, quick);
  assert.equal(changed.publishingProfile.excludeFromLatest, true);
  assert.deepEqual(await names(versions.listByGalleryImage(rg, gallery, image)), ["1.0.0"]);
  assert.deepEqual(
    await refused(versions.beginCreateOrUpdateAndWait(rg, gallery, image, "1.0", body, quick)),
    [400, "InvalidParameter"],
  );
}

async function disks() {
  const { id } = await client.galleryImageVersions.get(rg, gallery, image, "1.0.0");
  const creationData = { createOption: "FromImage", galleryImageReference: { id } };
  const made = await client.disks.beginCreateOrUpdateAndWait(rg, "d1", { location, creationData }, quick);
  assert.equal(made.provisioningState, "Succeeded");
  const copy = { createOption: "Copy", sourceResourceId: made.id };
  await client.snapshots.beginCreateOrUpdateAndWait(rg, "s1", { location, creationData: copy }, quick);
  assert.deepEqual(await names(client.snapshots.list()), ["s1"]);
  const storageProfile = { osDisk: { osType: "Linux", osState: "Generalized", managedDisk: { id: made.id } } };
  await client.images.beginCreateOrUpdateAndWait(rg, "i1", { location, storageProfile, hyperVGeneration: "V1" }, quick);
  assert.deepEqual(await names(client.images.list()), ["i1"]);
  await client.images.beginDeleteAndWait(rg, "i1", quick);
  await client.snapshots.beginDeleteAndWait(rg, "s1", quick);
  await client.disks.beginDeleteAndWait(rg, "d1", quick);
  assert.deepEqual(await names(client.disks.list()), []);
}

async function machines() {
  const { id } = await client.galleryImageVersions.get(rg, gallery, image, "1.0.0");
  const body = {
    location,
    hardwareProfile: { vmSize: "Standard_D2s_v3" },
    storageProfile: { imageReference: { id }, osDisk: { createOption: "FromImage", deleteOption: "Delete" } },
    osProfile: { computerName: "host", adminUsername: "azureuser", adminPassword: "Secret-123!" },
  };
  const made = await client.virtualMachines.beginCreateOrUpdateAndWait(rg, "vm1", body, quick);
  assert.equal(made.storageProfile.osDisk.createOption, "FromImage");
  assert.ok(made.timeCreated instanceof Date);
  const changed = await client.virtualMachines.beginUpdateAndWait(rg, "vm1", { tags: { a: "b" } }, quick);
  assert.deepEqual(changed.tags, { a: "b" });
  const view = await client.virtualMachines.instanceView(rg, "vm1");
  assert.equal(view.statuses.at(-1).code, "PowerState/deallocated");
  await client.virtualMachines.beginDeallocateAndWait(rg, "vm1", quick);
  await client.virtualMachines.generalize(rg, "vm1");
  await assert.rejects(client.virtualMachines.beginStartAndWait(rg, "vm1", quick), { code: "OperationNotAllowed" });
  assert.deepEqual(await names(client.virtualMachines.list(rg)), ["vm1"]);
  await client.virtualMachines.beginDeleteAndWait(rg, "vm1", quick);
  assert.deepEqual(await names(client.disks.list()), []);
}

async function sharing() {
  const groups = [{ type: "Subscriptions", ids: ["22222222-2222-2222-2222-222222222222"] }];
  await client.gallerySharingProfile.beginUpdateAndWait(rg, gallery, { operationType: "Add", groups }, quick);
  const shown = await client.galleries.get(rg, gallery, { select: "Permissions" });
  assert.equal(shown.sharingProfile.permissions, "Groups");
  await client.gallerySharingProfile.beginUpdateAndWait(rg, gallery, { operationType: "Reset" }, quick);
}

async function the_end() {
  await client.galleryImageVersions.beginDeleteAndWait(rg, gallery, image, "1.0.0", quick);
  await client.galleryImages.beginDeleteAndWait(rg, gallery, image, quick);
  await client.galleries.beginDeleteAndWait(rg, gallery, quick);
  assert.deepEqual(await names(client.galleries.list()), []);
}

for (const chapter of [group, galleries, images, versions, disks, machines, sharing, the_end]) {
  await chapter();
  console.log(chapter.name);
}
