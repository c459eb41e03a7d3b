import { networkInterfaces } from "node:os";

/**
 * The networks that this container is in. The frontend's nginx asks from one of them and says the client's address; a client that
 * reaches the published port by itself asks from elsewhere, and what it claims is not believed.
 */
export function ownNetworks(): string[] {
  return Object.values(networkInterfaces()).flatMap((addresses = []) => addresses.flatMap(({ cidr }) => cidr ?? []));
}
