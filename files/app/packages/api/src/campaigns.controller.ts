import { campaign, type Campaign, newCampaign, type NewCampaign } from "@campaign/shared";
import {
  BadRequestException,
  Body,
  Controller,
  Delete,
  Get,
  HttpCode,
  Inject,
  Param,
  Post,
  Put,
  Query,
  Req,
  Res,
} from "@nestjs/common";
import {
  ApiBearerAuth,
  ApiBody,
  ApiConsumes,
  ApiCreatedResponse,
  ApiNoContentResponse,
  ApiOkResponse,
  ApiProduces,
} from "@nestjs/swagger";
import type { FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";
import { Public } from "./auth.ts";
import { Campaigns } from "./campaigns.ts";
import { cursor, writeCursor } from "./cursor.ts";
import { Documented } from "./openapi.ts";

const id = z.uuid();
const listQuery = z.object({ limit: z.coerce.number().int().min(1).max(1000).default(200), cursor: cursor.optional() });

@Documented()
@Controller("campaigns")
export class CampaignsController {
  constructor(@Inject(Campaigns) private readonly campaigns: Campaigns) {}

  /** The newest first. `Link` says where the next ones are, if there are more. */
  @Get()
  @Public()
  @ApiOkResponse({ standardSchema: z.array(campaign), headers: { Link: { schema: { type: "string" } } } })
  async list(
    @Query({ schema: listQuery }) { limit, cursor: after }: z.infer<typeof listQuery>,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<Campaign[]> {
    // One more than was asked for tells whether there are more.
    const found = await this.campaigns.list(limit + 1, after);
    const page = found.slice(0, limit);
    if (found.length > limit) {
      const query = new URLSearchParams({ limit: String(limit), cursor: writeCursor(page.at(-1)!) });
      reply.header("link", `</api/campaigns?${query}>; rel="next"`);
    }
    return page;
  }

  @Get(":id")
  @Public()
  @ApiOkResponse({ standardSchema: campaign })
  get(@Param("id", { schema: id }) which: string): Promise<Campaign> {
    return this.campaigns.get(which);
  }

  @Post()
  @ApiBearerAuth()
  @ApiCreatedResponse({ standardSchema: campaign, headers: { Location: { schema: { type: "string" } } } })
  async create(
    @Body({ schema: newCampaign }) what: NewCampaign,
    @Res({ passthrough: true }) reply: FastifyReply,
  ): Promise<Campaign> {
    const created = await this.campaigns.create(what);
    reply.header("location", `/api/campaigns/${created.id}`);
    return created;
  }

  @Delete(":id")
  @HttpCode(204)
  @ApiBearerAuth()
  @ApiNoContentResponse()
  remove(@Param("id", { schema: id }) which: string): Promise<void> {
    return this.campaigns.remove(which);
  }

  @Put(":id/asset")
  @ApiBearerAuth()
  @ApiConsumes("image/*")
  @ApiBody({ schema: { type: "string", format: "binary" } })
  @ApiOkResponse({ standardSchema: campaign })
  setAsset(@Param("id", { schema: id }) which: string, @Req() request: FastifyRequest): Promise<Campaign> {
    if (!Buffer.isBuffer(request.body) || request.body.length === 0) {
      throw new BadRequestException("Send an image as the body, with its own content type.");
    }
    return this.campaigns.setAsset(which, { body: request.body, contentType: request.headers["content-type"]! });
  }

  @Get(":id/asset")
  @Public()
  @ApiProduces("image/*")
  @ApiOkResponse({ schema: { type: "string", format: "binary" } })
  async getAsset(@Param("id", { schema: id }) which: string, @Res() reply: FastifyReply): Promise<void> {
    const { body, contentType } = await this.campaigns.getAsset(which);
    // An image of a stranger's making must stay an image, an SVG with a script included.
    await reply
      .header("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
      .header("x-content-type-options", "nosniff")
      .type(contentType)
      .send(Buffer.from(body));
  }
}
